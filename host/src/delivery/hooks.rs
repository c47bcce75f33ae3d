//! Where the policy meets delivery: what it may decide before an attempt and hears after one.
//!
//! Delivery knows the policy only through [`DeliveryPolicy`], so it can be run, and tested, with [`NoPolicy`]. A hook
//! that nobody implements costs one virtual call a message.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::time::Duration;

use gatepost_smtp::reply::Reply;

use crate::config::TlsMode;
use crate::message::{Id, QueueState};

/// A future that an object of a trait can return.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What delivery asks the policy that is in force now.
pub trait DeliveryPolicy: Send + Sync {
    /// Whether [`DeliveryPolicy::on_route`] has anything to say; else it is not called.
    fn wants_on_route(&self) -> bool {
        false
    }

    /// Before an attempt: one decision for each of `pending` (indices into the envelope's recipients), in that order.
    /// What is missing at the end of the list passes.
    fn on_route<'a>(
        &'a self,
        _id: Id,
        _state: &'a QueueState,
        _pending: &'a [usize],
    ) -> BoxFuture<'a, Vec<RouteDecision>> {
        Box::pin(async { Vec::new() })
    }

    /// Whether [`DeliveryPolicy::on_delivery`] wants to hear of attempts; else it is not called.
    fn wants_on_delivery(&self) -> bool {
        false
    }

    /// After an attempt, for one recipient. For a deferred one the answer is the pause until the next attempt, if the
    /// policy wants another than the schedule's; at most [`MAX_PAUSE`] is heeded.
    fn on_delivery<'a>(
        &'a self,
        _id: Id,
        _state: &'a QueueState,
        _attempt: &'a AttemptResult,
    ) -> BoxFuture<'a, Option<Duration>> {
        Box::pin(async { None })
    }
}

/// The longest pause that a policy may ask for.
pub const MAX_PAUSE: Duration = Duration::from_secs(604_800);

/// What on-route says of one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteDecision {
    /// Deliver it, by the configured routes unless the choice says otherwise.
    Go(RouteChoice),
    /// Hold the whole message for an operator, with this reason. Recipients with another decision are still attempted
    /// first.
    Hold(String),
    /// Fail the recipient for good: it is bounced with this reply.
    Fail(Reply),
    /// No attempt now; the schedule's pause unless one is given.
    Defer { reply: Reply, pause: Option<Duration> },
    /// Drop the recipient without a bounce.
    Discard,
}

/// What a policy may choose for a recipient; `None` leaves the configuration's choice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteChoice {
    /// A configured route's name. One that does not exist defers the recipient.
    pub route: Option<String>,
    pub source_address: Option<IpAddr>,
    pub tls: Option<TlsMode>,
}

impl RouteDecision {
    /// No opinion.
    pub const PASS: RouteDecision = RouteDecision::Go(RouteChoice {
        route: None,
        source_address: None,
        tls: None,
    });
}

/// How an attempt ended for one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptResult {
    /// Index into the envelope's recipients.
    pub recipient: usize,
    pub outcome: Outcome,
    /// `mail.example.org:25`, `maildir:PATH`, `discard:`; empty if there was none.
    pub next_hop: String,
    /// The next hop's reply, or what went wrong.
    pub reply: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Delivered,
    Deferred,
    Failed,
    /// A policy dropped it.
    Discarded,
}

impl Outcome {
    /// As the log has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Delivered => "delivered",
            Outcome::Deferred => "deferred",
            Outcome::Failed => "failed",
            Outcome::Discarded => "discarded",
        }
    }
}

/// A policy without opinions.
pub struct NoPolicy;

impl DeliveryPolicy for NoPolicy {}
