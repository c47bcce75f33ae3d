//! The policy in force as delivery asks it (the canary's, for a message that came in one of its sessions): on-route before an attempt,
//! on-delivery after it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::config::TlsMode;
use crate::delivery::{AttemptResult, BoxFuture, DeliveryPolicy, Outcome, RouteChoice, RouteDecision};
use crate::message::{Id, QueueState};
use crate::policy::chain::{self, Attempt, AttemptOutcome, Question, Queued, Scope, TlsPolicy};
use crate::policy::decision::{Stage, Verdict};
use crate::policy::{Policy, Transaction};
use crate::relay::Relay;

pub struct Outbound {
    relay: Arc<Relay>,
}

impl Outbound {
    pub fn new(relay: Arc<Relay>) -> Outbound {
        Outbound { relay }
    }
}

/// The session in which a message arrived, as far as the spool keeps it.
fn scope(policy: &Policy, id: Id, state: &QueueState) -> Scope {
    let mut scope = Scope::new(state.origin.session.clone(), policy.services.clone());
    scope.message = Some(id);
    scope.transaction = Some(Arc::new(Transaction {
        envelope: state.envelope.clone(),
        notes: state.origin.notes.clone(),
        tags: state.origin.tags.clone(),
    }));
    scope
}

fn queued<'a>(id: Id, state: &'a QueueState, recipients: &'a [&'a str]) -> Queued<'a> {
    Queued {
        id,
        sender: &state.envelope.sender,
        recipients,
        size: state.size,
        attempts: state.attempts,
        age: SystemTime::now()
            .duration_since(state.origin.received)
            .unwrap_or_default(),
        tags: &state.origin.tags,
    }
}

impl DeliveryPolicy for Outbound {
    fn wants_on_route(&self) -> bool {
        self.relay.policies.wants(Stage::Route)
    }

    fn on_route<'a>(
        &'a self,
        id: Id,
        state: &'a QueueState,
        pending: &'a [usize],
    ) -> BoxFuture<'a, Vec<RouteDecision>> {
        Box::pin(async move {
            let policy = self.relay.policies.for_session(state.origin.session.id);
            let recipients: Vec<&str> = pending
                .iter()
                .filter_map(|index| state.envelope.recipients.get(*index))
                .map(|rcpt| rcpt.address.as_str())
                .collect();
            let queued = queued(id, state, &recipients);
            let outcome = chain::ask(&policy, &mut scope(&policy, id, state), Question::Route(&queued)).await;
            let decision = match (outcome.verdict, outcome.effects.quarantine) {
                (Verdict::Reject(reply), _) => RouteDecision::Fail(reply),
                (Verdict::Defer(reply) | Verdict::Disconnect(reply), _) => RouteDecision::Defer { reply, pause: None },
                (Verdict::Discard, _) => RouteDecision::Discard,
                (_, Some(why)) => RouteDecision::Hold(why),
                _ => RouteDecision::Go(RouteChoice {
                    route: outcome.effects.route,
                    source_address: outcome.effects.source_address,
                    tls: outcome.effects.tls.map(|tls| match tls {
                        TlsPolicy::Opportunistic => TlsMode::Opportunistic,
                        TlsPolicy::Required => TlsMode::Required,
                        TlsPolicy::Verified => TlsMode::Verify,
                    }),
                }),
            };
            vec![decision; pending.len()]
        })
    }

    fn wants_on_delivery(&self) -> bool {
        self.relay.policies.wants(Stage::Delivery)
    }

    fn on_delivery<'a>(
        &'a self,
        id: Id,
        state: &'a QueueState,
        attempt: &'a AttemptResult,
    ) -> BoxFuture<'a, Option<Duration>> {
        Box::pin(async move {
            let policy = self.relay.policies.for_session(state.origin.session.id);
            let recipient = state
                .envelope
                .recipients
                .get(attempt.recipient)
                .map_or("", |rcpt| &rcpt.address);
            let recipients = [recipient];
            let told = Attempt {
                recipient,
                outcome: match attempt.outcome {
                    Outcome::Delivered => AttemptOutcome::Delivered,
                    Outcome::Deferred => AttemptOutcome::Deferred,
                    Outcome::Failed | Outcome::Discarded => AttemptOutcome::Failed,
                },
                next_hop: &attempt.next_hop,
                reply: &attempt.reply,
            };
            let queued = queued(id, state, &recipients);
            chain::tell_delivery(&policy, &mut scope(&policy, id, state), &queued, &told).await
        })
    }
}
