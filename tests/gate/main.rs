//! The last promise: a PLC that works its gate by what it hears takes off exactly the bad parts, whatever fails meanwhile,
//! and every part when it hears nothing.
//!
//! In each scenario three PLCs work a gate each at the same place of one belt: by MQTT, by Modbus and by Sparkplug. All of
//! them run the function block of `docs/plc.st`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "also the helpers of a test may fail by panicking")]

mod cameras;
mod faults;
mod overload;
mod site;
mod steady;
