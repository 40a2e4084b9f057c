//! Gives the plugin its version and date from the repository.
fn main() {
    gst_plugin_version_helper::info();
}
