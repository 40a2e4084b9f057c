//! An RTSP camera on the loopback interface.

use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result};
use gst::glib;
use gst_rtsp_server::prelude::*;

/// A server with one stream at `/camera`. It ends, with its clients' sessions, when dropped.
pub struct RtspCamera {
    server: gst_rtsp_server::RTSPServer,
    main_loop: glib::MainLoop,
    thread: Option<JoinHandle<()>>,
}

impl RtspCamera {
    /// Serves this pipeline on a free port to each client anew. It must end with a payloader named `pay0`, such as
    /// `videotestsrc is-live=true ! x264enc tune=zerolatency ! rtph264pay name=pay0`.
    ///
    /// # Errors
    /// When GStreamer or its RTSP server does not start.
    pub fn start(pipeline: &str) -> Result<Self> {
        gst::init().context("cannot start GStreamer: run `make setup`")?;
        let server = gst_rtsp_server::RTSPServer::new();
        server.set_address("127.0.0.1");
        server.set_service("0");
        let factory = gst_rtsp_server::RTSPMediaFactory::new();
        factory.set_launch(&format!("( {pipeline} )"));
        server.mount_points().context("the server has no mount points")?.add_factory("/camera", factory);
        let context = glib::MainContext::new();
        server.attach(Some(&context)).context("cannot attach the RTSP server")?;
        let main_loop = glib::MainLoop::new(Some(&context), false);
        let thread = thread::Builder::new().name("rtsp-camera".to_owned()).spawn({
            let main_loop = main_loop.clone();
            move || main_loop.run()
        })?;
        Ok(Self { server, main_loop, thread: Some(thread) })
    }

    /// Address of the stream.
    pub fn url(&self) -> String {
        format!("rtsp://127.0.0.1:{}/camera", self.server.bound_port())
    }
}

impl Drop for RtspCamera {
    fn drop(&mut self) {
        self.server.client_filter(Some(&mut |_, _| gst_rtsp_server::RTSPFilterResult::Remove));
        let main_loop = self.main_loop.clone();
        // Quitting from within also works when the loop has not begun to run yet.
        self.main_loop.context().invoke(move || main_loop.quit());
        if let Some(thread) = self.thread.take() {
            // A loop that panicked has told so itself.
            let _ = thread.join();
        }
    }
}
