//! Native code of components: compiled in a child process with bounds ([`child`], [`confined`]), and kept for the next time ([`cache`]).
//!
//! A component is a stranger's, and compiling it is the largest thing that is done with it before a plugin's budgets hold: it takes seconds and
//! hundreds of megabytes, and a compiler may have faults. So it is done by a process that may use so much and no more, and whose end is an
//! error of that one load. What is deserialised is native code: [`NativeCode`] is the only way to it, and has three sources.
//!
//! Never here: what a component may import, and instances. How it fails: with a text for people that names the remedy. A cache that cannot be
//! read or written is a warning, and never an error of a load.

mod cache;
mod child;
mod confined;

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use wasmtime::component::Component;

use super::decision::Digest;
use cache::Cache;
use child::Child;
pub use child::{COMPILE_ARGUMENT, Limits};
pub use confined::main as confined_main;

/// The largest component file, in bytes.
pub const FILE_BYTES_MAX: usize = 64 << 20;

/// Makes native code of components, one at a time.
pub struct Compiler {
    how: How,
    cache: Option<Arc<Cache>>,
    turn: tokio::sync::Mutex<()>,
}

enum How {
    Child(Child),
    Here,
}

/// A component that can be instantiated.
pub(super) struct Native {
    pub component: Component,
    /// Of the component's bytes.
    pub digest: Digest,
    /// `None` if its code was kept from an earlier time.
    pub compiled_in: Option<Duration>,
}

impl Compiler {
    /// In a child process that is this executable again, called with [`COMPILE_ARGUMENT`].
    pub fn confined() -> Compiler {
        Compiler::by(this_executable(), Limits::DEFAULT)
    }

    /// The same by another program, whose output will run in this process: for tests, whose executable is not gatepost.
    pub fn by(program: &Path, limits: Limits) -> Compiler {
        let program = program.to_owned();
        Compiler::new(How::Child(Child { program, limits }))
    }

    /// In this process, without bounds: for tests and benches.
    pub fn here() -> Compiler {
        Compiler::new(How::Here)
    }

    fn new(how: How) -> Compiler {
        Compiler {
            how,
            cache: None,
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// Keeps what it makes in this folder, which is made if need be. Without a cache, with a warning, where that cannot be.
    pub fn cached_in(mut self, folder: &Path) -> Compiler {
        match Cache::open(folder) {
            Ok(cache) => self.cache = Some(Arc::new(cache)),
            Err(error) => {
                let folder = folder.display();
                tracing::warn!(%folder, %error, "no cache of compiled plugins: every load compiles");
            }
        }
        self
    }

    /// For commands: confined, and cached in the folder of whoever calls (`$XDG_CACHE_HOME`, else `~/.cache`), if there is one.
    pub fn of_commands() -> Compiler {
        let compiler = Compiler::by(this_executable(), Limits::OF_COMMANDS);
        match user_cache(|name| std::env::var_os(name).map(PathBuf::from)) {
            Some(folder) => compiler.cached_in(&folder),
            None => compiler,
        }
    }

    /// The component of these bytes, ready for this engine. The error is for people.
    pub(super) async fn compile(&self, engine: &wasmtime::Engine, component: Arc<[u8]>) -> Result<Native, String> {
        check_form(&component)?;
        let looking = {
            let (engine, component, cache) = (engine.clone(), component.clone(), self.cache.clone());
            move || {
                let digest = Digest::of(&component);
                let kept = cache.map(|cache| (cache.entry(&engine, digest), cache));
                let found = kept.as_ref().and_then(|(entry, cache)| {
                    let loaded = cache.get(entry)?.load(&engine);
                    loaded.map_err(|error| cache.refuse(entry, &error)).ok()
                });
                (digest, kept, found)
            }
        };
        let (digest, kept, found) = blocking(looking).await?;
        if let Some(component) = found {
            return Ok(Native {
                component,
                digest,
                compiled_in: None,
            });
        }
        let _turn = self.turn.lock().await;
        let began = Instant::now();
        let code = match &self.how {
            How::Child(child) => child.run(component).await?,
            How::Here => {
                let engine = engine.clone();
                let made = blocking(move || NativeCode::make(&engine, &component));
                made.await?.map_err(|error| does_not_compile(&format!("{error:#}")))?
            }
        };
        let engine = engine.clone();
        let component = blocking(move || {
            let component = code.load(&engine)?;
            if let Some((entry, cache)) = kept {
                cache.put(&entry, &code);
            }
            Ok::<_, String>(component)
        });
        Ok(Native {
            component: component.await??,
            digest,
            compiled_in: Some(began.elapsed()),
        })
    }
}

/// Native code that may run in this process, in memory that nobody can change any more. Nothing else is ever deserialised, and this has three
/// sources: our own call of the compiler, the child process that called it ([`Child::run`]), and an entry of the cache with our authenticator
/// ([`Cache::get`]). It is a memory file because wasmtime maps one as it is, where it would copy bytes: tens of milliseconds for an interpreter.
struct NativeCode(File);

impl NativeCode {
    fn make(engine: &wasmtime::Engine, component: &[u8]) -> wasmtime::Result<NativeCode> {
        let code = engine.precompile_component(component)?;
        let mut file = memory_file()?;
        file.write_all(&code)?;
        Ok(NativeCode::sealed(file)?)
    }

    /// From now on its bytes are what they are. Fails if somebody else could still write to it.
    fn sealed(file: File) -> io::Result<NativeCode> {
        let seals = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
        Ok(NativeCode(file))
    }

    fn load(&self, engine: &wasmtime::Engine) -> Result<Component, String> {
        let path = format!("/proc/self/fd/{}", self.0.as_raw_fd());
        // SAFETY: these are bytes that wasmtime's compiler of this very build made (see the type), for an engine whose settings wasmtime compares
        // with this one's before anything else; and they are sealed, so the mapped file does not change.
        let loaded = unsafe { Component::deserialize_file(engine, path) };
        loaded.map_err(|error| format!("its native code cannot be loaded: {error:#}"))
    }
}

fn memory_file() -> io::Result<File> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    Ok(File::from(memfd_create(c"gatepost-compile", flags)?))
}

/// What can be seen without a compiler.
fn check_form(bytes: &[u8]) -> Result<(), String> {
    if bytes.len() > FILE_BYTES_MAX {
        return Err(format!("the file is over {} MiB", FILE_BYTES_MAX >> 20));
    }
    if wasmtime::Engine::detect_precompiled(bytes).is_some() {
        return Err(
            "it was compiled elsewhere, so it is native code: give the .wasm component that it was made from".into(),
        );
    }
    match bytes {
        // RFC-less but stable: the magic number, then the layer: 1 is a core module, 0x1000d a component.
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => Err(
            "it is a core module: make a component of it (`gatepost plugin build` does, or `wasm-tools component new`)"
                .into(),
        ),
        [0, b'a', b's', b'm', ..] => Ok(()),
        _ => Err("it is no WebAssembly file".into()),
    }
}

/// The file that runs now, even if another one has its name meanwhile, or none.
fn this_executable() -> &'static Path {
    Path::new("/proc/self/exe")
}

fn does_not_compile(error: &str) -> String {
    format!("it does not compile: {error}")
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| "the compiler panicked: use another version of the component, and report this one".to_owned())
}

/// Where the caller of a command keeps what can be made again.
fn user_cache(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let of = |name| variable(name).filter(|path: &PathBuf| path.is_absolute());
    let caches = of("XDG_CACHE_HOME").or_else(|| Some(of("HOME")?.join(".cache")))?;
    Some(caches.join("gatepost"))
}

#[cfg(test)]
mod tests;
