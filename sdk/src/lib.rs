//! Write a Gatepost policy in Rust.
//!
//! A policy is a struct: its fields are its configuration, and it implements one trait for each hook it wants.
//! [`export!`] names these hooks, and the component exports them and nothing else. A hook that is not exported costs
//! nothing, and an import that is not called is not imported.
//!
//! ```
//! use gatepost_sdk::prelude::*;
//!
//! /// `[plugin.config]` of this policy. An unknown key, or a value of another type, stops the load with an error that names it.
//! #[derive(serde::Deserialize)]
//! #[serde(default, deny_unknown_fields)]
//! struct Config {
//!     banned: Vec<String>,
//! }
//! # impl Default for Config { fn default() -> Self { Self { banned: Vec::new() } } }
//!
//! struct Banned(Config);
//!
//! impl Policy for Banned {
//!     type Config = Config;
//!     fn new(config: Config) -> Result<Self, String> {
//!         Ok(Self(config))
//!     }
//! }
//!
//! impl OnMail for Banned {
//!     fn on_mail(&self, _session: &Session, sender: &Mailbox) -> Answer {
//!         let domain = sender.domain();
//!         if self.0.banned.contains(&domain) {
//!             return Answer::reject(550, "5.7.1", "Mail from your domain is not taken here")
//!                 .because("banned-domain", domain, "Ask the administrator to take the domain out of `banned`");
//!         }
//!         Answer::pass()
//!     }
//! }
//!
//! gatepost_sdk::export!(Banned: on_mail);
//! ```
//!
//! # The contract of a policy
//!
//! - The host calls [`Policy::new`] once in each instance, and runs any number of instances side by side. An instance may be thrown
//!   away after any call, so a policy keeps nothing in memory but its configuration and what follows from it. What it wants to
//!   remember of a session goes into [`notes`], what it wants to remember of the world into [`state`].
//! - A panic is a failure of the policy: the client gets what `on_failure` says, and the panic's text is in the daemon's log.
//! - What needs a grant says so in the documentation of the item; a policy that imports it without the grant is not loaded.
//! - Each function of [`Session`] and of the imports is one crossing into the host, below a microsecond where nothing else is
//!   said: ask for what the decision needs, once.
//!
//! # Tests
//!
//! On the author's machine the same types and functions are backed by a scripted host: [`testing::Script`] makes the policy of a configuration, and
//! asks its hooks about the session, DNS, clock and state that a test sets, under plain `cargo test`.

mod address;
mod answer;
mod bindings;
mod config;
mod hooks;
#[cfg(not(target_family = "wasm"))]
mod native;
mod policy;
mod state_error;

pub mod log;
#[cfg(not(target_family = "wasm"))]
pub mod testing;

pub use address::{Address, split_address};
#[cfg(target_family = "wasm")]
use bindings::gatepost::policy as interface;
#[cfg(not(target_family = "wasm"))]
use native as interface;

pub use config::{parse as parse_config, require_endpoint};
pub use hooks::{
    CommandResult, OnAuth, OnConnect, OnData, OnDelivery, OnDisconnect, OnEhlo, OnMail, OnMessage, OnQueued, OnRcpt,
    OnResult, OnRoute, Verdict,
};
pub use interface::hooks::decline;
pub use interface::{
    authentication, clock, credentials, dns, endpoint, login, messages, metrics, notes, queue, random, signing, state,
    types,
};
pub use policy::{NoConfig, Policy, Unconfigured};

/// What most policies need: `use gatepost_sdk::prelude::*;`.
pub mod prelude {
    pub use crate::hooks::*;
    pub use crate::messages::Message;
    pub use crate::types::{Action, Answer, Decision, Identity, Mailbox, Parameter, Peer, RelayView, Session};
    pub use crate::{NoConfig, Policy, Unconfigured};
}

/// For the macros.
#[doc(hidden)]
pub mod __private {
    pub use crate::bindings::{
        lifecycle, on_auth, on_connect, on_data, on_delivery, on_disconnect, on_ehlo, on_mail, on_message, on_queued,
        on_rcpt, on_result, on_route,
    };
    pub use crate::policy::Held;
}
