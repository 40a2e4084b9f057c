//! The Linewarden command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    linewarden::cli::main()
}
