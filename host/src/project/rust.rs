//! Rust: cargo to wasm32-unknown-unknown, then the component in this process.
//!
//! A compiler for the target is found as `scripts/lib.sh` finds it: the target's standard library beside the compiler; Debian's pair `rustc-web` and
//! `rust-web-src`, whose standard library cargo builds along; else rustup is asked to add the target.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, anyhow, bail};
use gatepost_plugin_build::build_file;

use super::tool;

const TARGET: &str = "wasm32-unknown-unknown";
const INSTALL_RUST: &str = "install Rust 1.85 or newer, from https://rustup.rs";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_LIBRARY: &str = "/usr/lib/rustlib/src/rust/library";

/// The profile of `scripts/lib.sh`, for the standard library too where it is built along.
const PROFILE: [(&str, &str); 6] = [
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3"),
    ("CARGO_PROFILE_RELEASE_LTO", "fat"),
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1"),
    ("CARGO_PROFILE_RELEASE_PANIC", "abort"),
    ("CARGO_PROFILE_RELEASE_STRIP", "symbols"),
    ("CARGO_PROFILE_RELEASE_DEBUG", "false"),
];

/// How there is a standard library for the target.
enum Way {
    Target,
    /// Built along by Debian's compiler, with this linker.
    Debian {
        linker: PathBuf,
    },
}

pub fn build(folder: &Path, component: &Path) -> anyhow::Result<()> {
    let name = package_name(&folder.join("Cargo.toml"))?;
    let way = way()?;
    // Whoever shares a target folder between projects has said so.
    let target = match std::env::var_os("CARGO_TARGET_DIR") {
        Some(given) => folder.join(given),
        None => folder.join("build/cargo"),
    };
    eprintln!("building {name} with cargo ({TARGET})");
    let mut cargo = Command::new("cargo");
    cargo
        .current_dir(folder)
        .args(["build", "--release", "--target", TARGET, "--target-dir"])
        .arg(&target)
        .envs(PROFILE)
        .env("CARGO_ENCODED_RUSTFLAGS", flags())
        // Meant for the host's compiler.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_BUILD_TARGET")
        .env_remove("RUSTC_WRAPPER");
    if let Way::Debian { linker } = &way {
        cargo
            .arg("-Zbuild-std=std,panic_abort")
            .env("RUSTC", DEBIAN_RUSTC)
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker);
    }
    tool::run(&mut cargo, INSTALL_RUST)?;
    let module = target
        .join(TARGET)
        .join("release")
        .join(format!("{}.wasm", name.replace('-', "_")));
    if !module.is_file() {
        bail!(
            "Cargo.toml: cargo left no {}: [lib] must have crate-type = [\"cdylib\"] and no other name",
            module.display()
        );
    }
    build_file(&module, component)?;
    Ok(())
}

fn package_name(manifest: &Path) -> anyhow::Result<String> {
    let shown = manifest.display();
    let text = fs::read_to_string(manifest).with_context(|| shown.to_string())?;
    let table: toml::Table = text.parse().with_context(|| shown.to_string())?;
    let name = table.get("package").and_then(|package| package.get("name"));
    let name = name.and_then(toml::Value::as_str);
    Ok(name
        .ok_or_else(|| anyhow!("{shown}: it has no package.name"))?
        .to_owned())
}

/// Vectors, which every engine that runs components has; and no names of this machine's folders in components, which are given to others.
/// Parted by 0x1f, because folders may have blanks.
fn flags() -> OsString {
    let mut flags = OsString::from("-Ctarget-feature=+simd128");
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::home_dir().map(|home| home.join(".cargo")));
    let Some(home) = home else {
        return flags;
    };
    let mut remap = |from: &Path, to: &str| {
        flags.push("\u{1f}--remap-path-prefix=");
        flags.push(from);
        flags.push(to);
    };
    remap(&home, "=cargo");
    // The last prefix that fits is taken.
    let registries = fs::read_dir(home.join("registry/src")).into_iter().flatten().flatten();
    for registry in registries {
        remap(&registry.path(), "=crates");
    }
    flags
}

fn way() -> anyhow::Result<Way> {
    let sysroot = sysroot()?;
    if has_target(&sysroot) {
        return Ok(Way::Target);
    }
    if let Some(linker) = linker(&sysroot).filter(|_| has_debian_pair()) {
        return Ok(Way::Debian { linker });
    }
    let remedy = format!(
        "there is no standard library for {TARGET}: run `rustup target add {TARGET}`, or on Debian `apt-get install rustc-web rust-web-src`"
    );
    if !tool::is_there("rustup") {
        bail!(remedy);
    }
    // It has its own time-outs.
    tool::run(Command::new("rustup").args(["target", "add", TARGET]), INSTALL_RUST).context(remedy)?;
    Ok(Way::Target)
}

fn sysroot() -> anyhow::Result<PathBuf> {
    let said = tool::ask(Command::new("rustc").args(["--print", "sysroot"]), INSTALL_RUST)?;
    Ok(PathBuf::from(said.trim()))
}

fn has_target(sysroot: &Path) -> bool {
    let libraries = fs::read_dir(sysroot.join("lib/rustlib").join(TARGET).join("lib"));
    let mut names = libraries.into_iter().flatten().flatten().map(|entry| entry.file_name());
    names.any(|name| name.to_string_lossy().starts_with("libstd-"))
}

/// The compiler, and the source of the standard library of the same version.
fn has_debian_pair() -> bool {
    let Ok(version) = tool::ask(Command::new(DEBIAN_RUSTC).arg("--version"), "") else {
        return false;
    };
    let version = version.split(' ').nth(1).unwrap_or_default().to_owned();
    let source = fs::canonicalize(Path::new(DEBIAN_LIBRARY).join("..")).unwrap_or_default();
    Path::new(DEBIAN_LIBRARY).join("Cargo.lock").is_file()
        && source
            .file_name()
            .is_some_and(|name| *name == *format!("rustc-{version}"))
}

/// The linker that rustup ships, else LLVM's.
fn linker(sysroot: &Path) -> Option<PathBuf> {
    let hosts = fs::read_dir(sysroot.join("lib/rustlib"))
        .into_iter()
        .flatten()
        .flatten();
    let shipped = hosts
        .map(|host| host.path().join("bin/rust-lld"))
        .find(|linker| linker.is_file());
    shipped.or_else(|| tool::is_there("wasm-ld").then(|| PathBuf::from("wasm-ld")))
}
