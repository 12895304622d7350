//! Requests as they enter, and the pure parts of their way down.

pub mod map;
