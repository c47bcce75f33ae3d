//! The interface outside of a component: the same names and signatures, answered by the scripted host of [`testing`](crate::testing).
//!
//! Records and variants are the generated ones; only what would cross into the host, resources and functions, stands here a second time, and a
//! test holds the signatures against the generated ones. A call outside of a scripted hook panics, as it would trap in the daemon; `hooks` and `endpoint::names` are for where the policy is made.

#![allow(missing_docs, reason = "the same items of `wit/` are documented there")]

use crate::bindings::gatepost::policy as generated;
use crate::testing::world::with;

pub use generated::queue;

pub mod types {
    use super::with;

    pub use super::generated::types::*;

    /// The session of the script.
    #[derive(Debug)]
    pub struct Session(pub(crate) ());

    impl Session {
        pub fn id(&self) -> String {
            with(|world| world.session_id.clone())
        }
        pub fn hostname(&self) -> String {
            with(|world| world.hostname.clone())
        }
        pub fn listener(&self) -> Listener {
            with(|world| world.listener.clone())
        }
        pub fn peer(&self) -> Peer {
            with(|world| world.peer.clone())
        }
        pub fn reverse_name(&self) -> Option<String> {
            with(|world| world.reverse_name.clone())
        }
        pub fn tls(&self) -> Option<Tls> {
            with(|world| world.tls.clone())
        }
        pub fn ehlo_name(&self) -> Option<String> {
            with(|world| world.ehlo_name.clone())
        }
        pub fn identity(&self) -> Option<Identity> {
            with(|world| world.identity.clone())
        }
        pub fn sender(&self) -> Option<String> {
            with(|world| world.envelope.as_ref().map(|envelope| envelope.sender.clone()))
        }
        pub fn envelope(&self) -> Option<Envelope> {
            with(|world| world.envelope.clone())
        }
        pub fn recipient_count(&self) -> u32 {
            with(|world| {
                world
                    .envelope
                    .as_ref()
                    .map_or(0, |envelope| envelope.recipients.len() as u32)
            })
        }
        pub fn message_size(&self) -> Option<u64> {
            with(|world| world.content.as_ref().map(|content| content.bytes.len() as u64))
        }
        pub fn is_our_domain(&self, domain: &str) -> bool {
            with(|world| world.is_our_domain(domain))
        }
        pub fn earlier_answers(&self) -> Vec<PastAnswer> {
            with(|world| world.earlier.clone())
        }
    }

    /// The mailbox of the hook call.
    #[derive(Debug)]
    pub struct Mailbox(pub(crate) ());

    impl Mailbox {
        pub fn address(&self) -> String {
            with(|world| world.mailbox.clone())
        }
        pub fn local(&self) -> String {
            with(|world| crate::split_address(&world.mailbox).local.into_owned())
        }
        pub fn domain(&self) -> String {
            with(|world| crate::split_address(&world.mailbox).domain.into_owned())
        }
        pub fn parameters(&self) -> Vec<Parameter> {
            with(|world| world.parameters.clone())
        }
    }
}

pub mod messages {
    use super::with;

    /// The message of the script.
    #[derive(Debug)]
    pub struct Message(pub(crate) ());

    impl Message {
        pub fn size(&self) -> u64 {
            with(|world| world.content().bytes.len() as u64)
        }
        pub fn body_offset(&self) -> u64 {
            with(|world| world.content().body_offset() as u64)
        }
        pub fn header(&self, name: &str) -> Vec<Vec<u8>> {
            with(|world| world.content().header(name))
        }
        pub fn read(&self, offset: u64, length: u32) -> Vec<u8> {
            with(|world| world.content().read(offset, length))
        }
        /// One policy alone sees no other's edits: it is the same.
        pub fn original(&self) -> Message {
            Message(())
        }
    }
}

pub mod login {
    use super::with;

    /// The login of the script.
    #[derive(Debug)]
    pub struct Attempt(pub(crate) ());

    impl Attempt {
        pub fn mechanism(&self) -> String {
            with(|world| world.login().mechanism.clone())
        }
        pub fn user(&self) -> String {
            with(|world| world.login().user.clone())
        }
        pub fn password(&self) -> String {
            with(|world| world.login().password.clone())
        }
        pub fn verify(&self) -> bool {
            with(|world| {
                let login = world.login().clone();
                world.users.get(&login.user) == Some(&login.password)
            })
        }
    }
}

pub mod log {
    pub use super::generated::log::Level;

    pub fn log(level: Level, message: &str) {
        super::with(|world| world.log(level, message));
    }
}

pub mod hooks {
    pub fn decline(hook: &str) {
        crate::testing::world::decline(hook);
    }
}

pub mod clock {
    pub fn now() -> u64 {
        super::with(|world| world.now_ms)
    }
}

pub mod random {
    pub fn get_u64() -> u64 {
        super::with(|world| world.random())
    }
}

pub mod metrics {
    pub fn count(name: &str, by: u64) {
        super::with(|world| world.count(name, by));
    }
}

pub mod notes {
    use super::with;

    pub use super::generated::notes::Scope;

    pub fn get(scope: Scope, plugin: &str, key: &str) -> Option<Vec<u8>> {
        with(|world| world.note(scope, plugin, key))
    }
    pub fn set(scope: Scope, key: &str, value: Option<&[u8]>) -> bool {
        with(|world| world.set_note(scope, "", key, value))
    }
}

pub mod state {
    use super::with;

    pub use super::generated::state::{Bucket, StateError, Taken};

    pub fn get(key: &str) -> Result<Option<Vec<u8>>, StateError> {
        with(|world| world.state()?.get(key))
    }
    pub fn set(key: &str, value: &[u8], ttl_seconds: Option<u32>) -> Result<(), StateError> {
        with(|world| world.state()?.set(key, value, ttl_seconds))
    }
    pub fn delete(key: &str) -> Result<(), StateError> {
        with(|world| world.state()?.delete(key))
    }
    pub fn increment(key: &str, by: i64, ttl_seconds: Option<u32>) -> Result<i64, StateError> {
        with(|world| world.state()?.increment(key, by, ttl_seconds))
    }
    pub fn take_all(buckets: &[Bucket]) -> Result<Taken, StateError> {
        with(|world| world.state()?.take_all(buckets))
    }
    pub fn refund(buckets: &[Bucket]) -> Result<(), StateError> {
        with(|world| world.state()?.refund(buckets))
    }
}

pub mod dns {
    use super::with;

    pub use super::generated::dns::{DnsError, ListQuery, Query, RecordType};

    pub fn lookup(queries: &[Query]) -> Vec<Result<Vec<String>, DnsError>> {
        with(|world| queries.iter().map(|query| world.looked_up(query)).collect())
    }
    pub fn lists(queries: &[ListQuery]) -> Vec<Result<Vec<String>, DnsError>> {
        with(|world| queries.iter().map(|query| world.listed(query)).collect())
    }
}

pub mod credentials {
    pub fn senders(identity: &str) -> Vec<String> {
        super::with(|world| world.senders(identity))
    }
}

pub mod authentication {
    use super::messages::Message;
    use super::types::Session;
    use super::with;

    pub use super::generated::authentication::{ArcSet, Check, DmarcPolicy, DmarcRequest, Status};

    pub fn check_envelope(_: &Session) -> Vec<Check> {
        let of_envelope = |check: &&Check| matches!(&*check.method, "spf" | "iprev");
        with(|world| world.checks.iter().filter(of_envelope).cloned().collect())
    }
    pub fn check_message(_: &Session, _: &Message) -> Vec<Check> {
        with(|world| world.checks.clone())
    }
    pub fn author_policy(_: &Session, _: &Message) -> Option<DmarcPolicy> {
        with(|world| world.author_policy.clone())
    }
    pub fn arc_sets(_: &Session, _: &Message) -> Vec<ArcSet> {
        with(|world| world.arc_sets.clone())
    }
}

pub mod signing {
    pub fn selectors(domain: &str) -> Vec<String> {
        super::with(|world| world.selectors(domain))
    }
}

pub mod endpoint {
    use super::with;

    pub use super::generated::endpoint::{EndpointError, Request, Response};

    /// A connection to an endpoint of the script.
    #[derive(Debug)]
    pub struct Connection {
        name: String,
    }

    impl Connection {
        pub fn write(&self, bytes: &[u8]) -> Result<(), EndpointError> {
            with(|world| {
                world.endpoint(&self.name)?.written.extend_from_slice(bytes);
                Ok(())
            })
        }
        pub fn read(&self, most: u32) -> Result<Vec<u8>, EndpointError> {
            with(|world| world.endpoint(&self.name)?.read(most))
        }
    }

    pub fn names() -> Vec<String> {
        crate::testing::world::endpoint_names()
    }
    pub fn connect(name: &str) -> Result<Connection, EndpointError> {
        with(|world| {
            world.endpoint(name)?;
            Ok(Connection { name: name.to_owned() })
        })
    }
    pub fn http(name: &str, request: &Request) -> Result<Response, EndpointError> {
        with(|world| world.endpoint(name)?.answer(request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compile if both are called alike and answer alike, whatever their `self` is.
    fn same<A, B, R>(_: fn(&A) -> R, _: fn(&B) -> R) {}
    fn same_with_text<A, B, R>(_: fn(&A, &str) -> R, _: fn(&B, &str) -> R) {}
    fn same_with_bytes<A, B, R>(_: fn(&A, &[u8]) -> R, _: fn(&B, &[u8]) -> R) {}
    fn same_with_number<A, B, R>(_: fn(&A, u32) -> R, _: fn(&B, u32) -> R) {}
    fn same_with_range<A, B, R>(_: fn(&A, u64, u32) -> R, _: fn(&B, u64, u32) -> R) {}
    fn same_with_two<A, B, C, D, R>(_: fn(&A, &C) -> R, _: fn(&B, &D) -> R) {}
    fn same_result<A, B, E>(_: fn(&str) -> Result<A, E>, _: fn(&str) -> Result<B, E>) {}

    #[test]
    fn signatures_are_those_of_the_component() {
        use generated::types::Session;
        same(Session::id, types::Session::id);
        same(Session::hostname, types::Session::hostname);
        same(Session::listener, types::Session::listener);
        same(Session::peer, types::Session::peer);
        same(Session::reverse_name, types::Session::reverse_name);
        same(Session::tls, types::Session::tls);
        same(Session::ehlo_name, types::Session::ehlo_name);
        same(Session::identity, types::Session::identity);
        same(Session::sender, types::Session::sender);
        same(Session::envelope, types::Session::envelope);
        same(Session::recipient_count, types::Session::recipient_count);
        same(Session::message_size, types::Session::message_size);
        same_with_text(Session::is_our_domain, types::Session::is_our_domain);
        same(Session::earlier_answers, types::Session::earlier_answers);

        use generated::types::Mailbox;
        same(Mailbox::address, types::Mailbox::address);
        same(Mailbox::local, types::Mailbox::local);
        same(Mailbox::domain, types::Mailbox::domain);
        same(Mailbox::parameters, types::Mailbox::parameters);

        use generated::messages::Message;
        same(Message::size, messages::Message::size);
        same(Message::body_offset, messages::Message::body_offset);
        same_with_text(Message::header, messages::Message::header);
        same_with_range(Message::read, messages::Message::read);
        let _: fn(&Message) -> Message = Message::original;
        let _: fn(&messages::Message) -> messages::Message = messages::Message::original;

        use generated::login::Attempt;
        same(Attempt::mechanism, login::Attempt::mechanism);
        same(Attempt::user, login::Attempt::user);
        same(Attempt::password, login::Attempt::password);
        same(Attempt::verify, login::Attempt::verify);

        let _ = [generated::log::log, log::log];
        let _ = [generated::hooks::decline, hooks::decline];
        let _ = [generated::clock::now, clock::now];
        let _ = [generated::random::get_u64, random::get_u64];
        let _ = [generated::metrics::count, metrics::count];
        let _ = [generated::notes::get, notes::get];
        let _ = [generated::notes::set, notes::set];
        let _ = [generated::state::get, state::get];
        let _ = [generated::state::set, state::set];
        let _ = [generated::state::delete, state::delete];
        let _ = [generated::state::increment, state::increment];
        let _ = [generated::state::take_all, state::take_all];
        let _ = [generated::state::refund, state::refund];
        let _ = [generated::dns::lookup, dns::lookup];
        let _ = [generated::dns::lists, dns::lists];
        let _ = [generated::credentials::senders, credentials::senders];
        let _ = [generated::signing::selectors, signing::selectors];
        same(
            generated::authentication::check_envelope,
            authentication::check_envelope,
        );
        same_with_two(generated::authentication::check_message, authentication::check_message);
        same_with_two(generated::authentication::author_policy, authentication::author_policy);
        same_with_two(generated::authentication::arc_sets, authentication::arc_sets);

        use generated::endpoint::Connection;
        same_with_bytes(Connection::write, endpoint::Connection::write);
        same_with_number(Connection::read, endpoint::Connection::read);
        let _ = [generated::endpoint::names, endpoint::names];
        same_result(generated::endpoint::connect, endpoint::connect);
        let _ = [generated::endpoint::http, endpoint::http];
    }
}
