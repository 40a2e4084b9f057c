//! The GStreamer plugin `linewarden`: [`anomalydetect`], [`anomalyoverlay`], [`mqttpublish`], and
//! [`syntheticline`], a camera for demonstrations and tests; [`lookoutvision`] and [`mqttpublisher`] in the place of the old
//! service's sample elements.
//!
//! Frames come in; the same frames go out with what the model said of them in [`meta`]. The elements carry data between
//! GStreamer and the crates that do the work (`model` scores and draws, `core` decides, `publish` delivers), and know
//! nothing of the daemon, which registers them with [`plugin_register_static`] instead of looking for the library.

pub mod anomalydetect;
pub mod anomalyoverlay;
pub mod frame;
pub mod lookoutvision;
pub mod meta;
mod metrics;
pub mod mqttpublish;
pub mod mqttpublisher;
mod stats;
pub mod syntheticline;

use gst::glib;

pub use definition::plugin_register_static;

fn plugin_init(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    meta::register();
    anomalydetect::register(plugin)?;
    anomalyoverlay::register(plugin)?;
    lookoutvision::register(plugin)?;
    mqttpublish::register(plugin)?;
    mqttpublisher::register(plugin)?;
    syntheticline::register(plugin)
}

/// What GStreamer looks for in the library.
mod definition {
    #![allow(missing_docs, unreachable_pub, reason = "written by the macro")]

    use super::plugin_init;

    gst::plugin_define!(
        linewarden,
        env!("CARGO_PKG_DESCRIPTION"),
        plugin_init,
        concat!(env!("CARGO_PKG_VERSION"), "-", env!("COMMIT_ID")),
        // GStreamer knows the Apache licence by this name only.
        "Apache 2.0",
        env!("CARGO_PKG_NAME"),
        env!("CARGO_PKG_NAME"),
        env!("CARGO_PKG_NAME"),
        env!("BUILD_REL_DATE")
    );
}
