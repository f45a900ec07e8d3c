//! Tests of the surroundings through their public interface.

mod clock;
mod network;
mod random;
mod tasks;

use std::{
    future::Future,
    pin::pin,
    task::{Context, Poll, Waker},
};

/// Polls once, without anybody to be woken.
fn poll_once<F: Future>(future: F) -> Option<F::Output> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}
