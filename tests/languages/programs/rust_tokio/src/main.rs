//! axum on tokio's multi-threaded runtime: a task on another worker, the blocking pool, a timer and a caught panic in each call.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::routing::post;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

static CALLS: AtomicU64 = AtomicU64::new(0);

#[derive(Deserialize)]
struct Asked {
    text: String,
    number: u64,
}

async fn call(Json(asked): Json<Asked>) -> Json<Value> {
    let count = CALLS.fetch_add(1, Ordering::Relaxed) + 1;
    let number = asked.number;
    let sum = tokio::task::spawn_blocking(move || (0..=number).map(|n| n * n).sum::<u64>()).await.unwrap();
    let panicked = tokio::spawn(async move { assert!(number > u64::MAX - 1, "on purpose") }).await.is_err();
    tokio::time::sleep(Duration::from_millis(1)).await;
    let mut random = [0; 16];
    getrandom::fill(&mut random).unwrap();
    let random: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    Json(json!({
        "text": asked.text, "count": count, "sum": sum, "random": random, "panicked": panicked,
        "version": option_env!("RUSTC_VERSION").unwrap_or("?"),
    }))
}

#[tokio::main]
async fn main() {
    let port = std::env::var("PORT").unwrap();
    let listener = tokio::net::TcpListener::bind(format!("0.0.0.0:{port}")).await.unwrap();
    axum::serve(listener, Router::new().route("/", post(call))).await.unwrap();
}
