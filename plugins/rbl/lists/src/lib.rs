//! What DNS lists (RFC 5782) say about addresses and domains, and what it weighs: shared by `rbl`, which asks at RCPT, and `rbl-links`, which asks
//! about a message. They are two components because who only looks at clients is not to be granted a look into messages.
//!
//! - [`ListConfig`], [`List`]: a list as it is configured, and what its return codes mean.
//! - [`registered_domain`]: the name under which lists keep a domain.
//! - [`ask`]: one batch of questions; what counts comes back as [`Finding`]s, and what cannot be an answer is an event.
//! - [`without_broken`], [`tell_dead`]: the lists' test points.
//! - [`Verdict`]: findings as a score and as text, for the reply, the log and a note.
//!
//! Never: remembers anything (answers are cached by the host's resolver, for as long as the lists say), or counts a failure against anybody.

mod ask;
mod codes;
mod config;
mod domain;
mod list;
mod test_points;
mod verdict;

pub use ask::{About, Finding, MOST_QUESTIONS, Question, ask};
pub use codes::Code;
pub use config::{ListConfig, default_test_points, default_weight};
pub use domain::{check_suffixes, host_name, registered_domain};
pub use list::{Kind, List, Meaning, check_all};
pub use test_points::{tell_dead, without_broken};
pub use verdict::{Verdict, against};
