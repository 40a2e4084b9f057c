//! Answers and faults as clients of the old service read them.

use std::error::Error as _;

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use linewarden_contract::Fault;
use serde_json::Value;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-amzn-requestid");
const ERROR_TYPE: HeaderName = HeaderName::from_static("x-amzn-errortype");

pub(super) fn written(outcome: Result<(u16, Value), Fault>, request_id: &str) -> Response {
    let mut response = match outcome {
        Ok((status, answer)) => document(status, &answer),
        Err(fault) => refused(&fault, request_id),
    };
    if let Ok(request_id) = HeaderValue::from_str(request_id) {
        response.headers_mut().insert(REQUEST_ID, request_id);
    }
    response
}

fn refused(fault: &Fault, request_id: &str) -> Response {
    if fault.is_fault() {
        let cause = fault.source().map(ToString::to_string);
        tracing::error!(request_id, cause, "request failed");
    } else {
        tracing::debug!(request_id, status = fault.status(), error_type = fault.error_type(), %fault, "request refused");
    }
    let mut response = document(fault.status(), &fault.body());
    let headers = response.headers_mut();
    headers.insert(ERROR_TYPE, HeaderValue::from_static(fault.error_type()));
    if let Some(wait) = fault.retry_after() {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs()));
    }
    if let Some(Ok(allowed)) = fault.allow().map(|allowed| HeaderValue::from_str(&allowed)) {
        headers.insert(header::ALLOW, allowed);
    }
    response
}

/// Null is an empty body: clients take both, and some operations have nothing to say.
fn document(status: u16, document: &Value) -> Response {
    let body = if document.is_null() { Body::empty() } else { Body::from(document.to_string()) };
    let mut response = Response::new(body);
    // Every status of the contract is one of HTTP.
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if !document.is_null() {
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    response
}
