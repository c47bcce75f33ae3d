//! What every policy is, and where the instance's configured policy lives.
//!
//! One component instance holds one policy, made by `configure`. The bindings call functions without `self`; [`Held`] is what connects
//! them with it.

use std::cell::OnceCell;

use serde::Deserialize;
use serde::de::DeserializeOwned;

/// A policy: a value that is made of a configuration, and asked at the hooks that it implements.
pub trait Policy: Sized + 'static {
    /// What `[plugin.config]` is parsed into. Derive `Deserialize` with `#[serde(deny_unknown_fields)]`, and `default` for keys that may
    /// be absent: with no configuration it is parsed from `{}`. A policy that takes none is [`Unconfigured`].
    type Config: DeserializeOwned;

    /// Makes the policy. Called once in each instance, before any hook: do here what need not be done in each call.
    ///
    /// # Errors
    /// What is wrong with the configuration, for the administrator: name the key and the remedy. The plugin is then not loaded.
    fn new(config: Self::Config) -> Result<Self, String>;
}

/// The configuration of a policy that takes none: any key is an error.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoConfig {}

/// For a policy without configuration: `impl Unconfigured for MyPolicy {}` makes it a [`Policy`] by its `Default`.
pub trait Unconfigured: Default + 'static {}

impl<P: Unconfigured> Policy for P {
    type Config = NoConfig;

    fn new(_: NoConfig) -> Result<Self, String> {
        Ok(Self::default())
    }
}

/// Where an instance holds its policy. Implemented by [`export!`](crate::export).
#[doc(hidden)]
pub trait Held: Policy {
    fn with_cell<R>(body: impl FnOnce(&OnceCell<Self>) -> R) -> R;

    fn with<R>(body: impl FnOnce(&Self) -> R) -> R {
        Self::with_cell(|cell| {
            body(
                cell.get()
                    .expect("the host configures an instance before it calls a hook"),
            )
        })
    }

    fn configure(json: &str) -> Result<(), String> {
        #[cfg(target_family = "wasm")]
        std::panic::set_hook(Box::new(|panic| crate::log::error(&panic.to_string())));

        let policy = Self::new(crate::config::parse(json)?)?;
        Self::with_cell(|cell| cell.set(policy).map_err(|_| "configured twice".to_owned()))
    }
}

/// Exports a policy: the type, and the hooks of it that the host shall call.
///
/// ```ignore
/// gatepost_sdk::export!(MyPolicy: on_connect, on_rcpt);
/// ```
///
/// Once in a crate. The crate is a `cdylib`. A hook that is named without its trait being implemented does not compile; a trait that is
/// implemented without being named is never called.
#[macro_export]
macro_rules! export {
    ($policy:ident: $($hook:ident),+ $(,)?) => {
        const _: () = {
            ::std::thread_local! {
                static POLICY: ::std::cell::OnceCell<$policy> = const { ::std::cell::OnceCell::new() };
            }

            impl $crate::__private::Held for $policy {
                fn with_cell<R>(body: impl FnOnce(&::std::cell::OnceCell<Self>) -> R) -> R {
                    POLICY.with(body)
                }
            }
        };

        $crate::__export_hook!(lifecycle $policy);
        $($crate::__export_hook!($hook $policy);)+
    };
}
