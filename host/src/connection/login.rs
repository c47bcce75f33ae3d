//! AUTH: the SASL exchange, the policies' say, and the users file.

use std::sync::Arc;

use gatepost_smtp::reply::Reply;
use gatepost_smtp::session::{Answer, AuthStep};

use super::Connection;
use crate::auth::{Exchange, Failure, Login, Step};
use crate::maillog;
use crate::message::Identity;
use crate::metrics::AuthResult;
use crate::policy::chain::{self, AuthOutcome};
use crate::policy::decision::Stage;

/// An exchange in progress.
pub(super) struct LoginExchange {
    mechanism: String,
    exchange: Exchange,
}

impl Connection {
    pub(super) async fn on_auth(&mut self, step: AuthStep) -> Answer {
        let step = match step {
            AuthStep::Begin { mechanism, initial } => {
                let users = self.settings.users.clone();
                let Some((exchange, step)) = Exchange::begin(&mechanism, initial.as_deref(), users) else {
                    return Answer::Failure(Reply::auth_mechanism_unknown());
                };
                self.login = Some(Box::new(LoginExchange { mechanism, exchange }));
                step
            }
            AuthStep::Response(response) => match &mut self.login {
                Some(login) => login.exchange.respond(&response),
                None => Step::Failure(Failure::Malformed),
            },
        };
        match step {
            Step::Challenge(challenge) => Answer::Challenge(challenge),
            Step::Verify(login) => self.verify(login).await,
            Step::Success(name) => {
                let method = self.mechanism().into();
                self.authenticated(Identity { name, method })
            }
            Step::Failure(Failure::Malformed) => self.failed(None, "malformed", Reply::auth_bad_base64()),
            Step::Failure(Failure::Credentials) => self.failed(None, "bad-credentials", Reply::auth_failed()),
        }
    }

    /// PLAIN and LOGIN: the policies first, then the users file.
    async fn verify(&mut self, login: Login) -> Answer {
        let user = login.name.clone();
        let login = Arc::new(login);
        if self.policy.wants(Stage::Auth) {
            match chain::ask_auth(&self.policy, &mut self.scope, login.clone()).await {
                AuthOutcome::Pass => {}
                AuthOutcome::Success(identity) => return self.authenticated(identity),
                AuthOutcome::Failure(plugin) => {
                    let answer = self.failed(Some(&user), "refused-by-policy", Reply::auth_failed());
                    if let Some(blame) = &mut self.blame {
                        blame.plugin = Some(plugin);
                        blame.stage = Some(Stage::Auth);
                    }
                    return answer;
                }
                AuthOutcome::Defer(reply) => return self.unavailable(&user, "policy-failed", reply),
            }
        }
        match self.settings.users.verify_plain(&login.name, &login.password).await {
            Ok(true) => {
                // Spelt as in the users file: `Alice` and `alice` are one.
                let name = self
                    .settings
                    .users
                    .lookup(&user)
                    .map_or_else(|| user.as_str().into(), |user| user.name.clone());
                self.authenticated(Identity {
                    name,
                    method: login.mechanism.into(),
                })
            }
            Ok(false) => self.failed(Some(&user), "bad-credentials", Reply::auth_failed()),
            Err(error) => self.unavailable(&user, &error.to_string(), Reply::auth_unavailable()),
        }
    }

    /// Whether who logged in could still do so. A new password is to end what the old one began.
    pub(super) fn may_go_on(&self) -> bool {
        let Some(identity) = &self.scope.session.identity else {
            return true;
        };
        let (now, then) = (self.relay.settings(), &self.settings);
        Arc::ptr_eq(&now.users, &then.users) || now.users.keeps(&then.users, &identity.name)
    }

    fn mechanism(&self) -> String {
        self.login
            .as_ref()
            .map(|login| login.mechanism.clone())
            .unwrap_or_default()
    }

    fn authenticated(&mut self, identity: Identity) -> Answer {
        self.relay.metrics.auth(&identity.method, AuthResult::Ok);
        Arc::make_mut(&mut self.scope.session).identity = Some(identity);
        self.scope.ask_all_again();
        self.login = None;
        maillog::auth(&self.scope.session);
        Answer::Success
    }

    fn failed(&mut self, user: Option<&str>, reason: &str, reply: Reply) -> Answer {
        let mechanism = self.mechanism();
        self.login = None;
        self.relay.metrics.auth(&mechanism, AuthResult::Bad);
        maillog::auth_failed(&self.scope.session, &mechanism, user, reason);
        self.blame(reason, "");
        if let Some(blame) = &mut self.blame {
            blame.recipient = user.map(str::to_owned);
        }
        self.login_failures += 1;
        match self.login_failures >= self.listener.limits.auth_failures {
            true => Answer::Disconnect(reply),
            false => Answer::Failure(reply),
        }
    }

    fn unavailable(&mut self, user: &str, reason: &str, reply: Reply) -> Answer {
        let mechanism = self.mechanism();
        self.login = None;
        self.relay.metrics.auth(&mechanism, AuthResult::Error);
        maillog::auth_failed(&self.scope.session, &mechanism, Some(user), reason);
        self.blame("auth-unavailable", reason);
        Answer::Failure(reply)
    }
}
