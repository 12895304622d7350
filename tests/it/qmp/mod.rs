//! QMP on the wire: the session, the order and texts of its checks, and the commands about nodes
//! and exports. Texts are those of QEMU 10; `docs/compat.md` names the exceptions.

mod backups;
mod bitmaps;
mod client;
mod commands;
mod damage;
mod devices;
mod interop;
mod job_options;
mod jobs;
mod limits;
mod lives;
mod mirrors;
mod nbd_guest;
mod options;
mod overlays;
mod rig;
mod secrets;
mod session;
mod snapshots;
mod sockets;
mod trouble;
