//! Cameras that vanish, stall, change, send garbage, lie about the time or show nothing: `linewarden run` with real RTSP.

mod clock;
mod genicam;
mod health;
mod recovery;
mod support;
