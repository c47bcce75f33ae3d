//! The hooks as traits: implement those that the policy wants, and name them in [`export!`](crate::export).
//!
//! What each hook sees and may answer is said in `wit/hooks.wit`. The bridges below hand the arguments on by reference; they decide nothing.

use crate::bindings::{on_auth, on_result};
use crate::login::Attempt;
use crate::messages::Message;
use crate::queue::{AttemptResult, QueuedMessage};
use crate::types::{Answer, Mailbox, RelayView, Session};

pub use on_auth::exports::gatepost::policy::on_auth::Verdict;
pub use on_result::exports::gatepost::policy::on_result::CommandResult;

/// A connection came in; nothing was said yet.
pub trait OnConnect {
    /// See `on-connect` in `wit/hooks.wit`.
    fn on_connect(&self, session: &Session) -> Answer;
}

/// EHLO or HELO. Called again after STARTTLS.
pub trait OnEhlo {
    /// See `on-ehlo` in `wit/hooks.wit`.
    fn on_ehlo(&self, session: &Session, name: &str) -> Answer;
}

/// AUTH PLAIN or LOGIN, before the host looks into the users file.
pub trait OnAuth {
    /// See `on-auth` in `wit/hooks.wit`.
    fn on_auth(&self, session: &Session, attempt: &Attempt) -> Verdict;
}

/// MAIL FROM.
pub trait OnMail {
    /// See `on-mail` in `wit/hooks.wit`.
    fn on_mail(&self, session: &Session, sender: &Mailbox) -> Answer;
}

/// RCPT TO, once for each recipient.
pub trait OnRcpt {
    /// See `on-rcpt` in `wit/hooks.wit`.
    fn on_rcpt(&self, session: &Session, recipient: &Mailbox, relay: &RelayView) -> Answer;
}

/// DATA, or the first BDAT, before the content is asked for.
pub trait OnData {
    /// See `on-data` in `wit/hooks.wit`.
    fn on_data(&self, session: &Session) -> Answer;
}

/// The message is here, and was not answered yet. Grant `read-message`.
pub trait OnMessage {
    /// See `on-message` in `wit/hooks.wit`.
    fn on_message(&self, session: &Session, message: &Message) -> Answer;
}

/// A queued message is about to be tried.
pub trait OnRoute {
    /// See `on-route` in `wit/hooks.wit`.
    fn on_route(&self, session: &Session, message: &QueuedMessage) -> Answer;
}

/// An attempt ended. The seconds until the next one after a temporary failure; `None` leaves the schedule.
pub trait OnDelivery {
    /// See `on-delivery` in `wit/hooks.wit`.
    fn on_delivery(&self, session: &Session, message: &QueuedMessage, outcome: &AttemptResult) -> Option<u32>;
}

/// The message is durable in the queue, and the client got its 250. Observes.
pub trait OnQueued {
    /// See `on-queued` in `wit/hooks.wit`.
    fn on_queued(&self, session: &Session, message: &QueuedMessage);
}

/// A command was refused, or AUTH was answered, by a policy or by the core. Observes.
pub trait OnResult {
    /// See `on-result` in `wit/hooks.wit`.
    fn on_result(&self, session: &Session, event: &CommandResult);
}

/// The connection ended. Observes.
pub trait OnDisconnect {
    /// See `on-disconnect` in `wit/hooks.wit`.
    fn on_disconnect(&self, session: &Session);
}

/// The bridges from what the component exports to the policy that the instance holds.
#[cfg(target_family = "wasm")]
mod bridges {
    use super::*;
    use crate::bindings::{
        on_connect, on_data, on_delivery, on_disconnect, on_ehlo, on_mail, on_message, on_queued, on_rcpt, on_route,
    };
    use crate::policy::Held;

    impl<P: Held> crate::bindings::lifecycle::exports::gatepost::policy::lifecycle::Guest for P {
        fn configure(config: String) -> Result<(), String> {
            <P as Held>::configure(&config)
        }
    }

    impl<P: Held + OnConnect> on_connect::exports::gatepost::policy::on_connect::Guest for P {
        fn on_connect(session: &Session) -> Answer {
            P::with(|policy| policy.on_connect(session))
        }
    }

    impl<P: Held + OnEhlo> on_ehlo::exports::gatepost::policy::on_ehlo::Guest for P {
        fn on_ehlo(session: &Session, name: String) -> Answer {
            P::with(|policy| policy.on_ehlo(session, &name))
        }
    }

    impl<P: Held + OnAuth> on_auth::exports::gatepost::policy::on_auth::Guest for P {
        fn on_auth(session: &Session, attempt: &Attempt) -> Verdict {
            P::with(|policy| policy.on_auth(session, attempt))
        }
    }

    impl<P: Held + OnMail> on_mail::exports::gatepost::policy::on_mail::Guest for P {
        fn on_mail(session: &Session, sender: &Mailbox) -> Answer {
            P::with(|policy| policy.on_mail(session, sender))
        }
    }

    impl<P: Held + OnRcpt> on_rcpt::exports::gatepost::policy::on_rcpt::Guest for P {
        fn on_rcpt(session: &Session, recipient: &Mailbox, relay: RelayView) -> Answer {
            P::with(|policy| policy.on_rcpt(session, recipient, &relay))
        }
    }

    impl<P: Held + OnData> on_data::exports::gatepost::policy::on_data::Guest for P {
        fn on_data(session: &Session) -> Answer {
            P::with(|policy| policy.on_data(session))
        }
    }

    impl<P: Held + OnMessage> on_message::exports::gatepost::policy::on_message::Guest for P {
        fn on_message(session: &Session, message: &Message) -> Answer {
            P::with(|policy| policy.on_message(session, message))
        }
    }

    impl<P: Held + OnRoute> on_route::exports::gatepost::policy::on_route::Guest for P {
        fn on_route(session: &Session, message: QueuedMessage) -> Answer {
            P::with(|policy| policy.on_route(session, &message))
        }
    }

    impl<P: Held + OnDelivery> on_delivery::exports::gatepost::policy::on_delivery::Guest for P {
        fn on_delivery(session: &Session, message: QueuedMessage, outcome: AttemptResult) -> Option<u32> {
            P::with(|policy| policy.on_delivery(session, &message, &outcome))
        }
    }

    impl<P: Held + OnQueued> on_queued::exports::gatepost::policy::on_queued::Guest for P {
        fn on_queued(session: &Session, message: QueuedMessage) {
            P::with(|policy| policy.on_queued(session, &message))
        }
    }

    impl<P: Held + OnResult> on_result::exports::gatepost::policy::on_result::Guest for P {
        fn on_result(session: &Session, event: CommandResult) {
            P::with(|policy| policy.on_result(session, &event))
        }
    }

    impl<P: Held + OnDisconnect> on_disconnect::exports::gatepost::policy::on_disconnect::Guest for P {
        fn on_disconnect(session: &Session) {
            P::with(|policy| policy.on_disconnect(session))
        }
    }
}

/// The export glue of one hook, by its name. Only a component has it: elsewhere the symbols' names would trip the linker.
#[doc(hidden)]
#[macro_export]
macro_rules! __export_hook {
    (lifecycle $policy:ident) => {
        #[cfg(target_family = "wasm")]
        $crate::__private::lifecycle::export_lifecycle!($policy with_types_in $crate::__private::lifecycle);
    };
    (on_connect $policy:ident) => {
        #[cfg(target_family = "wasm")]
        $crate::__private::on_connect::export_on_connect!($policy with_types_in $crate::__private::on_connect);
    };
    (on_ehlo $policy:ident) => {
        #[cfg(target_family = "wasm")]
        $crate::__private::on_ehlo::export_on_ehlo!($policy with_types_in $crate::__private::on_ehlo);
    };
    (on_auth $policy:ident) => {
        #[cfg(target_family = "wasm")]
        $crate::__private::on_auth::export_on_auth!($policy with_types_in $crate::__private::on_auth);
    };
    (on_mail $policy:ident) => {
        #[cfg(target_family = "wasm")]
        $crate::__private::on_mail::export_on_mail!($policy with_types_in $crate::__private::on_mail);
    };
    (on_rcpt $policy:ident) => {
        #[cfg(target_family = "wasm")]
        $crate::__private::on_rcpt::export_on_rcpt!($policy with_types_in $crate::__private::on_rcpt);
    };
    (on_data $policy:ident) => {
        #[cfg(target_family = "wasm")]
        $crate::__private::on_data::export_on_data!($policy with_types_in $crate::__private::on_data);
    };
    (on_message $policy:ident) => {
        #[cfg(target_family = "wasm")]
        $crate::__private::on_message::export_on_message!($policy with_types_in $crate::__private::on_message);
    };
    (on_route $policy:ident) => {
        #[cfg(target_family = "wasm")]
        $crate::__private::on_route::export_on_route!($policy with_types_in $crate::__private::on_route);
    };
    (on_delivery $policy:ident) => {
        #[cfg(target_family = "wasm")]
        $crate::__private::on_delivery::export_on_delivery!($policy with_types_in $crate::__private::on_delivery);
    };
    (on_queued $policy:ident) => {
        #[cfg(target_family = "wasm")]
        $crate::__private::on_queued::export_on_queued!($policy with_types_in $crate::__private::on_queued);
    };
    (on_result $policy:ident) => {
        #[cfg(target_family = "wasm")]
        $crate::__private::on_result::export_on_result!($policy with_types_in $crate::__private::on_result);
    };
    (on_disconnect $policy:ident) => {
        #[cfg(target_family = "wasm")]
        $crate::__private::on_disconnect::export_on_disconnect!($policy with_types_in $crate::__private::on_disconnect);
    };
}
