//! Makes Rust of the `.proto` file, without a compiler that would have to be installed.

use std::error::Error;
use std::io::Write as _;

fn main() -> Result<(), Box<dyn Error>> {
    writeln!(std::io::stdout(), "cargo:rerun-if-changed=proto/edge_agent.proto")?;
    let files = protox::compile(["edge_agent.proto"], ["proto"])?;
    tonic_prost_build::configure().compile_fds(files)?;
    Ok(())
}
