//! Writing ONNX files, and reading those that others wrote. A [`GraphBuilder`] is filled node by node and gives the
//! bytes of one self-contained file; the same calls give the same bytes. Nothing here knows what the graph computes.

mod graph;
pub(crate) mod proto;

pub use graph::{Attr, Dim, ElementType, GraphBuilder, OPSET_MAX, OPSET_MIN};
