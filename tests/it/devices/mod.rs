//! What a device promises: its limits, what becomes of its errors, its options and its queries; on
//! the simulator, whose time is virtual.

mod errors;
mod options;
mod rig;
mod throttle;
