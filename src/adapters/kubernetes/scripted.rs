//! An API server for tests: it answers by a script, and keeps what it was asked.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use http::{Request, Response};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tower_service::Service;

/// What is asked, as `METHOD PATH`.
pub(super) type Asked = Arc<Mutex<Vec<String>>>;

/// An API server that answers by a script: a status and a document for what is asked, and how often it has been before.
#[derive(Clone)]
pub(super) struct Script {
    answer: fn(&str, usize) -> (u16, Value),
    asked: Asked,
}

impl Service<Request<Body>> for Script {
    type Response = Response<String>;
    type Error = Infallible;
    type Future = Ready<Result<Response<String>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let what = format!("{} {}", request.method(), request.uri().path());
        let mut asked = self.asked.lock().unwrap();
        let before = asked.iter().filter(|known| **known == what).count();
        let (status, document) = (self.answer)(&what, before);
        asked.push(what);
        ready(Ok(Response::builder().status(status).body(document.to_string()).unwrap()))
    }
}

/// A client of that API server, and what it asks.
pub(super) fn api(answer: fn(&str, usize) -> (u16, Value)) -> (Client, Asked) {
    let asked = Asked::default();
    (Client::new(Script { answer, asked: Arc::clone(&asked) }, "default"), asked)
}

/// An API server's refusal.
pub(super) fn failure(code: u16, reason: &str) -> (u16, Value) {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": reason, "reason": reason,
        "code": code,
    });
    (code, status)
}
