//! Each output against a client or server that others wrote: pymodbus, asyncua and pysparkplug from PyPI.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends at the first surprise, in its helpers too")]

mod modbus;
mod opcua;
mod sparkplug;
mod support;
