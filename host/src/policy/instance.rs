//! Instances of one plugin: leased for a call, kept for the next one, thrown away after a failure.
//!
//! One store an instance, one plugin a store. Whatever goes wrong in a call (a trap, a limit, time) ends that instance alone; the
//! caller gets a [`Failure`], never a panic, and never a wait longer than the plugin's wall time.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout_at};
use wasmtime::component::{InstancePre, Resource};
use wasmtime::{Store, UpdateDeadline};

use super::answer::cut;
use super::bindings::exports::gatepost::policy as hooks;
use super::bindings::gatepost::policy::{queue, types as wit};
use super::decision::Failure;
use super::engine::{Engine, TICK};
use super::imports::{Call, Guest};
use super::memory::{Account, Refused, Spare};
use super::services::endpoint::Endpoints;
use crate::config;

/// How the failure of a guest begins whose `configure` returned an error.
pub(super) const REFUSES_ITS_CONFIGURATION: &str = "it refuses its configuration";
/// Bytes of a guest's backtrace that are kept.
const TRAP_BYTES_MAX: usize = 4_000;
/// Instances kept for the next call; more are made when needed, and dropped when they come back.
const IDLE_MAX: usize = 16;
/// What a guest may hand over in one host call, in bytes; the whole call is bounded by `host_call_bytes`.
const HOST_CALL_FUEL: usize = 8 << 20;
/// One in so many parts of a call's wall time is kept for its answer, and endpoints are not waited for in it: so a policy hears that one is slow while
/// it can still say what becomes of that, and not only `on_failure`.
const ENDPOINT_RESERVE: u32 = 4;
/// Handles to host resources that an instance may hold.
const HANDLES_MAX: usize = 1_000;

/// Which hook to call, with what.
#[derive(Clone, Copy)]
pub enum HookCall<'a> {
    Connect,
    Ehlo(&'a str),
    Auth,
    Mail,
    Rcpt(&'a wit::RelayView),
    Data,
    Message,
    Queued(&'a queue::QueuedMessage),
    Route(&'a queue::QueuedMessage),
    Delivery(&'a queue::QueuedMessage, &'a queue::AttemptResult),
    Result(&'a hooks::on_result::CommandResult),
    Disconnect,
}

/// What a hook said, unchecked.
pub enum HookAnswer {
    Answer(wit::Answer),
    Auth(hooks::on_auth::Verdict),
    Delay(Option<u32>),
    Nothing,
}

/// The hooks that a component exports, found once at load.
#[derive(Clone, Default)]
pub struct Exports {
    pub lifecycle: Option<hooks::lifecycle::GuestIndices>,
    pub on_connect: Option<hooks::on_connect::GuestIndices>,
    pub on_ehlo: Option<hooks::on_ehlo::GuestIndices>,
    pub on_auth: Option<hooks::on_auth::GuestIndices>,
    pub on_mail: Option<hooks::on_mail::GuestIndices>,
    pub on_rcpt: Option<hooks::on_rcpt::GuestIndices>,
    pub on_data: Option<hooks::on_data::GuestIndices>,
    pub on_message: Option<hooks::on_message::GuestIndices>,
    pub on_queued: Option<hooks::on_queued::GuestIndices>,
    pub on_route: Option<hooks::on_route::GuestIndices>,
    pub on_delivery: Option<hooks::on_delivery::GuestIndices>,
    pub on_result: Option<hooks::on_result::GuestIndices>,
    pub on_disconnect: Option<hooks::on_disconnect::GuestIndices>,
}

/// The same, bound to one instance.
#[derive(Default)]
struct Hooks {
    lifecycle: Option<hooks::lifecycle::Guest>,
    on_connect: Option<hooks::on_connect::Guest>,
    on_ehlo: Option<hooks::on_ehlo::Guest>,
    on_auth: Option<hooks::on_auth::Guest>,
    on_mail: Option<hooks::on_mail::Guest>,
    on_rcpt: Option<hooks::on_rcpt::Guest>,
    on_data: Option<hooks::on_data::Guest>,
    on_message: Option<hooks::on_message::Guest>,
    on_queued: Option<hooks::on_queued::Guest>,
    on_route: Option<hooks::on_route::Guest>,
    on_delivery: Option<hooks::on_delivery::Guest>,
    on_result: Option<hooks::on_result::Guest>,
    on_disconnect: Option<hooks::on_disconnect::Guest>,
}

/// Boxed: an instance is hundreds of bytes, and each call would move it twice.
type Idle = Mutex<Vec<Box<Instance>>>;

impl Spare for Idle {
    fn drop_one(&self) -> bool {
        let oldest = {
            let mut idle = self.lock();
            (!idle.is_empty()).then(|| idle.remove(0))
        };
        // It goes without the lock.
        oldest.is_some()
    }
}

/// All instances of one plugin version.
pub struct Pool {
    engine: Engine,
    pre: InstancePre<Guest>,
    exports: Exports,
    settings: Arc<config::Plugin>,
    plugin: Arc<str>,
    endpoints: Arc<Endpoints>,
    /// `[plugin.config]` as the guest gets it.
    config: String,
    permits: Arc<Semaphore>,
    /// The one that waits longest comes first.
    idle: Arc<Idle>,
    memory: Arc<Account>,
    started: AtomicU64,
}

struct Instance {
    store: Store<Guest>,
    hooks: Hooks,
    uses: u32,
    _live: OwnedSemaphorePermit,
}

impl Pool {
    pub fn new(
        engine: Engine,
        pre: InstancePre<Guest>,
        exports: Exports,
        settings: Arc<config::Plugin>,
        endpoints: Endpoints,
    ) -> Pool {
        let idle = Arc::new(Idle::default());
        let spare: Weak<Idle> = Arc::downgrade(&idle);
        let memory = Account::new(settings.max_memory_bytes as usize, spare);
        Pool {
            plugin: settings.name.as_str().into(),
            endpoints: Arc::new(endpoints),
            engine,
            pre,
            exports,
            config: settings.config.to_string(),
            permits: Arc::new(Semaphore::new(settings.max_instances as usize)),
            settings,
            idle,
            memory: Arc::new(memory),
            started: AtomicU64::new(0),
        }
    }

    /// The same without any instance, and with other endpoints.
    pub fn empty(&self, endpoints: Endpoints) -> Pool {
        let (pre, exports) = (self.pre.clone(), self.exports.clone());
        Pool::new(self.engine.clone(), pre, exports, self.settings.clone(), endpoints)
    }

    /// Instances made since the plugin was loaded.
    pub fn started(&self) -> u64 {
        self.started.load(Ordering::Relaxed)
    }

    /// Instances that wait for a call.
    pub fn idle(&self) -> usize {
        self.idle.lock().len()
    }

    /// Bytes of the memories and tables of an instance that waits.
    pub fn memory_bytes(&self) -> Option<usize> {
        let idle = self.idle.lock();
        idle.last().map(|instance| instance.store.data().limiter.used())
    }

    /// Bytes of the memories and tables of all instances, those in use too.
    pub fn held_bytes(&self) -> usize {
        self.memory.held()
    }

    /// Makes one instance and keeps it for the first call: the last test of a load. Returns a bit for each stage whose hook the guest declines.
    pub async fn trial(&self) -> Result<u16, Failure> {
        let deadline = Instant::now() + self.settings.budget.wall;
        let instance = self.start(deadline).await?;
        let declined = instance.store.data().declined;
        self.give_back(instance);
        Ok(declined)
    }

    /// Calls one hook. The call comes back with what it read and wrote, whatever happened.
    /// The wall time runs from `began`.
    pub async fn call(
        &self,
        call: Box<Call>,
        began: std::time::Instant,
        hook: HookCall<'_>,
    ) -> (Result<HookAnswer, Failure>, Box<Call>) {
        let wall = self.settings.budget.wall;
        let deadline = Instant::from_std(began) + wall;
        let _permit = match self.permits.try_acquire() {
            Ok(permit) => permit,
            Err(_) => match timeout_at(deadline, self.permits.acquire()).await {
                Ok(Ok(permit)) => permit,
                _ => return (Err(Failure::Busy), call),
            },
        };
        let idle = match self.settings.instances {
            config::Instances::Pooled => self.idle.lock().pop(),
            config::Instances::Fresh => None,
        };
        let mut instance = match idle {
            Some(instance) => instance,
            None => match self.start(deadline).await {
                Ok(instance) => instance,
                Err(failure) => return (Err(failure), call),
            },
        };
        instance.uses += 1;
        let endpoints_until = deadline - wall / ENDPOINT_RESERVE;
        instance.store.data_mut().begin(call, endpoints_until);
        arm(&mut instance.store);
        let result = within(deadline, instance.hooks.invoke(&mut instance.store, hook)).await;
        let guest = instance.store.data_mut();
        guest.log_output(true);
        let call = guest
            .call
            .take()
            .expect("it was put there before the call, and no guest can take it");
        match result {
            Ok(Ok(answer)) => {
                self.give_back(instance);
                (Ok(answer), call)
            }
            // The store may be poisoned: the instance goes.
            Ok(Err(error)) => (Err(classify(&instance.store, &error)), call),
            Err(_) => (Err(Failure::Wall), call),
        }
    }

    fn give_back(&self, instance: Box<Instance>) {
        if self.settings.instances == config::Instances::Fresh || instance.uses >= self.settings.max_uses {
            return;
        }
        let mut idle = self.idle.lock();
        if idle.len() < IDLE_MAX {
            idle.push(instance);
        }
    }

    /// A new instance, configured.
    async fn start(&self, deadline: Instant) -> Result<Box<Instance>, Failure> {
        let live = match timeout_at(deadline, self.engine.live.clone().acquire_owned()).await {
            Ok(Ok(permit)) => permit,
            _ => return Err(Failure::Busy),
        };
        self.started.fetch_add(1, Ordering::Relaxed);
        let budget = self.settings.budget;
        let mut store = Store::new(
            self.engine.wasm(),
            Guest::new(
                self.settings.clone(),
                self.plugin.clone(),
                self.endpoints.clone(),
                self.memory.clone(),
            ),
        );
        store.limiter(|guest| &mut guest.limiter);
        store.set_hostcall_fuel(HOST_CALL_FUEL.min(budget.host_call_bytes as usize));
        store.set_max_component_handles(HANDLES_MAX);
        store.epoch_deadline_callback(|mut store| {
            let guest = store.data_mut();
            guest.ticks_left = guest.ticks_left.saturating_sub(1);
            match guest.ticks_left {
                0 => {
                    guest.cpu_used_up = true;
                    Err(wasmtime::format_err!("cpu_ms is used up"))
                }
                _ => Ok(UpdateDeadline::Yield(1)),
            }
        });
        arm(&mut store);
        let started = timeout_at(deadline, async {
            let instance = self.pre.instantiate_async(&mut store).await?;
            let hooks = self.exports.bind(&mut store, &instance)?;
            let configured = match &hooks.lifecycle {
                Some(lifecycle) => lifecycle.call_configure(&mut store, &self.config).await?,
                None => Ok(()),
            };
            wasmtime::Result::Ok((hooks, configured))
        })
        .await;
        match started {
            Ok(Ok((hooks, Ok(())))) => {
                // Like what is logged there.
                drop(store.data_mut().take_output(true));
                Ok(Box::new(Instance {
                    store,
                    hooks,
                    uses: 0,
                    _live: live,
                }))
            }
            Ok(Ok((_, Err(text)))) => Err(Failure::Start(format!(
                "{REFUSES_ITS_CONFIGURATION}: {}",
                cut(&text, TRAP_BYTES_MAX)
            ))),
            Ok(Err(error)) => Err(match classify(&store, &error) {
                Failure::Trap(text) => {
                    // An interpreter tells there what went wrong.
                    let said: Vec<String> = store
                        .data_mut()
                        .take_output(true)
                        .into_iter()
                        .map(|(_, line)| line)
                        .collect();
                    let text = match said.is_empty() {
                        true => text,
                        false => format!("{} ({text})", said.join(" | ")),
                    };
                    Failure::Start(cut(&text, TRAP_BYTES_MAX).to_owned())
                }
                limit => limit,
            }),
            Err(_) => Err(Failure::Wall),
        }
    }
}

/// The same as `timeout_at`, without a timer for a call that waits for nothing, as most do.
async fn within<T>(deadline: Instant, call: impl Future<Output = T>) -> Result<T, Elapsed> {
    let mut call = pin!(call);
    match poll_fn(|context| Poll::Ready(call.as_mut().poll(context))).await {
        Poll::Ready(done) => Ok(done),
        Poll::Pending => timeout_at(deadline, call).await,
    }
}

/// Gives a call its CPU time.
fn arm(store: &mut Store<Guest>) {
    let guest = store.data_mut();
    // One more than the budget: the first tick may come at once.
    guest.ticks_left = ticks(guest.cpu) + 1;
    store.set_epoch_deadline(1);
}

fn ticks(cpu: Duration) -> u64 {
    (cpu.as_millis() / TICK.as_millis()).max(1) as u64
}

fn classify(store: &Store<Guest>, error: &wasmtime::Error) -> Failure {
    let guest = store.data();
    if guest.cpu_used_up {
        Failure::Cpu
    } else if let Some(refused) = guest.limiter.refused {
        match refused {
            Refused::Own => Failure::Memory,
            Refused::Together => Failure::TotalMemory,
        }
    } else if guest.host_calls_used_up {
        Failure::HostCallBytes
    } else if error.is::<wasmtime::PoolConcurrencyLimitError>() {
        Failure::Busy
    } else {
        Failure::Trap(cut(&format!("{error:#}"), TRAP_BYTES_MAX).replace('\n', " "))
    }
}

macro_rules! bind_all {
    ($self:ident, $store:ident, $instance:ident: $($hook:ident),*) => {
        Hooks { $($hook: match &$self.$hook {
            Some(indices) => Some(indices.load(&mut *$store, $instance).map_err(|cause| {
                let hook = stringify!($hook).replace('_', "-");
                wasmtime::format_err!("its {hook} has another type than the host's: {cause:#}")
            })?),
            None => None,
        },)* }
    };
}

impl Exports {
    fn bind(&self, store: &mut Store<Guest>, instance: &wasmtime::component::Instance) -> wasmtime::Result<Hooks> {
        Ok(bind_all!(self, store, instance:
            lifecycle, on_connect, on_ehlo, on_auth, on_mail, on_rcpt, on_data, on_message, on_queued, on_route, on_delivery,
            on_result, on_disconnect))
    }
}

impl Hooks {
    /// Calls the guest. Only called for hooks that it exports.
    async fn invoke(&self, store: &mut Store<Guest>, hook: HookCall<'_>) -> wasmtime::Result<HookAnswer> {
        let session = Resource::new_borrow(0);
        let absent = || wasmtime::format_err!("the hook is not exported");
        Ok(match hook {
            HookCall::Connect => {
                let hook = self.on_connect.as_ref().ok_or_else(absent)?;
                HookAnswer::Answer(hook.call_on_connect(store, session).await?)
            }
            HookCall::Ehlo(name) => {
                let hook = self.on_ehlo.as_ref().ok_or_else(absent)?;
                HookAnswer::Answer(hook.call_on_ehlo(store, session, name).await?)
            }
            HookCall::Auth => {
                let hook = self.on_auth.as_ref().ok_or_else(absent)?;
                HookAnswer::Auth(hook.call_on_auth(store, session, Resource::new_borrow(0)).await?)
            }
            HookCall::Mail => {
                let hook = self.on_mail.as_ref().ok_or_else(absent)?;
                HookAnswer::Answer(hook.call_on_mail(store, session, Resource::new_borrow(0)).await?)
            }
            HookCall::Rcpt(relay) => {
                let hook = self.on_rcpt.as_ref().ok_or_else(absent)?;
                HookAnswer::Answer(
                    hook.call_on_rcpt(store, session, Resource::new_borrow(0), relay)
                        .await?,
                )
            }
            HookCall::Data => {
                let hook = self.on_data.as_ref().ok_or_else(absent)?;
                HookAnswer::Answer(hook.call_on_data(store, session).await?)
            }
            HookCall::Message => {
                let hook = self.on_message.as_ref().ok_or_else(absent)?;
                HookAnswer::Answer(hook.call_on_message(store, session, Resource::new_borrow(0)).await?)
            }
            HookCall::Queued(message) => {
                let hook = self.on_queued.as_ref().ok_or_else(absent)?;
                hook.call_on_queued(store, session, message).await?;
                HookAnswer::Nothing
            }
            HookCall::Route(message) => {
                let hook = self.on_route.as_ref().ok_or_else(absent)?;
                HookAnswer::Answer(hook.call_on_route(store, session, message).await?)
            }
            HookCall::Delivery(message, outcome) => {
                let hook = self.on_delivery.as_ref().ok_or_else(absent)?;
                HookAnswer::Delay(hook.call_on_delivery(store, session, message, outcome).await?)
            }
            HookCall::Result(event) => {
                let hook = self.on_result.as_ref().ok_or_else(absent)?;
                hook.call_on_result(store, session, event).await?;
                HookAnswer::Nothing
            }
            HookCall::Disconnect => {
                let hook = self.on_disconnect.as_ref().ok_or_else(absent)?;
                hook.call_on_disconnect(store, session).await?;
                HookAnswer::Nothing
            }
        })
    }
}
