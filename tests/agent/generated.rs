//! Generated messages, most of them wrong somewhere: the agent refuses each by a status that says why, and goes on.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use fastrand::Rng;
use linewarden_model::ModelType;
use linewarden_proto::edge_agent::{
    AnomalyMaskParams, Bitmap, DescribeModelRequest, DetectAnomaliesRequest, SharedMemoryHandle, bitmap,
};
use linewarden_testkit::settings::number;
use prost::Message as _;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Endpoint;
use tonic::{Code, Request, Status};

use crate::{Component, SOCKET, Site};

/// In CI; `make soak` sends many more.
const MESSAGES: usize = 3_000;
const CALLS: [&str; 5] = ["DetectAnomalies", "DescribeModel", "ListModels", "StartModel", "StopModel"];

/// Sends bytes as they are, whether they are a message or not.
#[derive(Debug, Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        bytes::BufMut::put_slice(buffer, &item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let length = bytes::Buf::remaining(buffer);
        Ok(Some(bytes::Buf::copy_to_bytes(buffer, length).to_vec()))
    }
}

/// A message for the call; its fields say nonsense now and then, its bytes are changed now and then.
fn message(random: &mut Rng, call: &str) -> Vec<u8> {
    let component = ["bright", "bright", "mask", "absent", "", "../../etc", "a\0b"][random.usize(..7)].to_owned();
    let mut bytes = match call {
        "DetectAnomalies" => DetectAnomaliesRequest {
            model_component: component,
            bitmap: (random.u8(..20) > 0).then(|| bitmap(random)),
            anomaly_mask_params: (random.u8(..4) == 0)
                .then(|| AnomalyMaskParams { shared_memory_handle: (random.u8(..8) > 0).then(|| handle(random)) }),
        }
        .encode_to_vec(),
        // All others have that field, or none.
        _ => DescribeModelRequest { model_component: component }.encode_to_vec(),
    };
    if random.u8(..3) == 0 && !bytes.is_empty() {
        for _ in 0..random.usize(1..6) {
            // The fields are at the front, before the pixels.
            let at = random.usize(..bytes.len().min(64));
            bytes[at] = random.u8(..);
        }
    }
    bytes
}

fn bitmap(random: &mut Rng) -> Bitmap {
    let sides = [160, 160, 160, 120, 0, -1, 64, i32::MAX, 63, 4097];
    let (width, height) = (sides[random.usize(..sides.len())], [120, 120, 160, 0, i32::MIN][random.usize(..5)]);
    let data = match random.u8(..4) {
        0 => Some(bitmap::Data::SharedMemoryHandle(handle(random))),
        1 if random.u8(..5) == 0 => None,
        _ => {
            let right = 160 * 120 * 3;
            let length = [right, right, right, right - 1, right + 1, 0, 7][random.usize(..7)];
            Some(bitmap::Data::ByteData(vec![random.u8(..); length]))
        }
    };
    Bitmap { width, height, data }
}

fn handle(random: &mut Rng) -> SharedMemoryHandle {
    let names = ["/absent", "", "/", "../../etc/passwd", "/../etc/passwd", "/linewarden-none", "a\0b"];
    let numbers = [0, 1, 57_600, u64::MAX, u64::MAX / 2];
    SharedMemoryHandle {
        name: names[random.usize(..names.len())].to_owned(),
        size: numbers[random.usize(..5)],
        offset: numbers[random.usize(..5)],
    }
}

#[test]
fn generated_messages_are_refused_by_a_status_and_the_agent_goes_on() -> Result<()> {
    let messages = number("LINEWARDEN_AGENT_MESSAGES", MESSAGES as u64)?;
    let seed = number("LINEWARDEN_AGENT_SEED", fastrand::u64(..))?;
    writeln!(std::io::stderr(), "{messages} messages; the same once more with LINEWARDEN_AGENT_SEED={seed}")?;
    let mut site = Site::new(
        &[
            Component("bright", 160, 120, ModelType::Classification),
            Component("mask", 160, 120, ModelType::Segmentation),
        ],
        "",
    )?;
    for component in ["bright", "mask"] {
        site.start(component)?;
    }
    let socket = format!("unix://{}", site.daemon.path(SOCKET).display());
    let mut random = Rng::with_seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (began, mut seen) = (Instant::now(), BTreeMap::<String, u64>::new());
    runtime.block_on(async {
        let channel = Endpoint::from_shared(socket)?.connect().await.context("no agent at the socket")?;
        let mut client = tonic::client::Grpc::new(channel).max_decoding_message_size(1 << 26);
        for _ in 0..messages {
            let call = match random.u8(..10) {
                0 => CALLS[random.usize(..CALLS.len())],
                _ => "DetectAnomalies",
            };
            let bytes = message(&mut random, call);
            // A changed name may stop a model that pictures are sent to.
            let call = if call == "StopModel" { "StartModel" } else { call };
            client.ready().await.context("the agent is gone")?;
            let path = format!("/AWS.LookoutVision.EdgeAgent/{call}").parse()?;
            let outcome = client.unary(Request::new(bytes), path, Raw).await;
            let code = outcome.as_ref().err().map_or(Code::Ok, Status::code);
            let told = outcome.as_ref().err().map(|status| status.message().to_owned()).unwrap_or_default();
            // What is no message at all, the codec refuses as a fault; nothing else is one.
            let is_garbled = code == Code::Internal && told.contains("decode");
            ensure!(
                is_garbled || ![Code::Internal, Code::Unknown, Code::DataLoss].contains(&code),
                "{call}: {code:?} {told}"
            );
            ensure!(code == Code::Ok || !told.is_empty(), "{call}: {code:?} without a word");
            *seen.entry(format!("{code:?}")).or_default() += 1;
        }
        anyhow::Ok(())
    })?;
    let rate = messages as f64 / began.elapsed().as_secs_f64();
    writeln!(std::io::stderr(), "{rate:.0} messages a second: {seen:?}")?;
    for wanted in ["Ok", "InvalidArgument", "NotFound"] {
        ensure!(seen.contains_key(wanted), "no {wanted} in {seen:?}");
    }
    assert!(!site.daemon.log()?.contains("panicked"));
    // It still tells a bright picture from a dark one.
    site.end()
}
