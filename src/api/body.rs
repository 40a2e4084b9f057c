//! Bodies, read within bounds: each one's size, the time it takes, and all of them together.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::Bytes;
use linewarden_access::{BodyHash, BodyHasher};
use linewarden_contract::Fault;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_stream::StreamExt as _;

/// Of which every body takes a share for as long as its request lasts.
pub(super) type Budget = Arc<Semaphore>;

/// One permit stands for so many bytes.
const PERMIT_BYTES: usize = 1024;
/// More than any client of the old service sends by mistake.
const MOST_PASSED_OVER_BYTES: usize = 64 << 20;
/// What a client waits that found the budget spent.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A body that has not been read.
pub(super) struct Incoming {
    pub(super) body: Body,
    /// What it goes through on its way, if anything.
    pub(super) hasher: Option<BodyHasher>,
}

/// A body that was read.
pub(super) struct Arrived {
    pub(super) bytes: Bytes,
    pub(super) hash: Option<BodyHash>,
    pub(super) _share: OwnedSemaphorePermit,
}

/// Why a body did not come as a whole.
enum Broken {
    TooLarge,
    Off(axum::Error),
}

pub(super) fn permits(bytes: usize) -> usize {
    bytes.div_ceil(PERMIT_BYTES)
}

pub(super) async fn read(
    incoming: Incoming,
    headers: &HeaderMap,
    limit: usize,
    timeout: Duration,
    budget: &Budget,
) -> Result<Arrived, Fault> {
    let Incoming { body, hasher } = incoming;
    let too_large = || Fault::TooLarge { limit_bytes: u64::try_from(limit).unwrap_or(u64::MAX) };
    let told = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    let is_chunked = headers.contains_key(header::TRANSFER_ENCODING);
    // A chunked body may become as large as is allowed; without either header there is none.
    let share = if is_chunked { limit } else { told.unwrap_or(0) };
    let granted = if told.is_some_and(|length| length > limit) { Err(too_large()) } else { share_of(budget, share) };
    let share = match granted {
        Ok(share) => share,
        Err(fault) => {
            // However far it came, the fault is told.
            let _ = tokio::time::timeout(timeout, pass_over(body)).await;
            return Err(fault);
        }
    };
    let whole = tokio::time::timeout(timeout, collect(body, told.unwrap_or(0), limit, hasher)).await;
    match whole {
        Ok(Ok((bytes, hash))) => Ok(Arrived { bytes, hash, _share: share }),
        Ok(Err(Broken::TooLarge)) => Err(too_large()),
        Ok(Err(Broken::Off(error))) => Err(Fault::serialization(format!("the body broke off: {error}"))),
        Err(_) => Err(Fault::serialization(format!("the body did not arrive within {timeout:?}"))),
    }
}

/// Puts the pieces together, `told_bytes` or as many as come. Each is hashed as it arrives, while the client sends the next.
async fn collect(
    body: Body,
    told_bytes: usize,
    limit: usize,
    mut hasher: Option<BodyHasher>,
) -> Result<(Bytes, Option<BodyHash>), Broken> {
    let mut whole = Vec::with_capacity(told_bytes);
    let mut pieces = body.into_data_stream();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(Broken::Off)?;
        if whole.len() + piece.len() > limit {
            return Err(Broken::TooLarge);
        }
        if let Some(hasher) = &mut hasher {
            hasher.update(&piece);
        }
        whole.extend_from_slice(&piece);
    }
    Ok((whole.into(), hasher.map(BodyHasher::finish)))
}

/// A client that still sends when its connection is closed never reads why: so what it sends is taken, and thrown away.
async fn pass_over(body: Body) {
    let mut chunks = body.into_data_stream();
    let mut left = MOST_PASSED_OVER_BYTES;
    while let Some(Ok(chunk)) = chunks.next().await
        && left > 0
    {
        left = left.saturating_sub(chunk.len());
    }
}

fn share_of(budget: &Budget, bytes: usize) -> Result<OwnedSemaphorePermit, Fault> {
    let permits = u32::try_from(permits(bytes)).unwrap_or(u32::MAX);
    Arc::clone(budget).try_acquire_many_owned(permits).map_err(|_| Fault::Throttled {
        message: "too many large requests at once".to_owned(),
        quota_code: None,
        retry_after: Some(RETRY_AFTER),
    })
}
