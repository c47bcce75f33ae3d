use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::cache::Bounds;
use super::*;

/// A component that does nothing; with another number it is another one.
fn component(number: u8) -> Arc<[u8]> {
    let custom_section = [0, 2, 1, number];
    [b"\0asm\x0d\0\x01\0".as_slice(), &custom_section].concat().into()
}

fn engine() -> wasmtime::Engine {
    crate::policy::engine::for_compiling().unwrap()
}

/// Whether it had to be compiled.
async fn compiles(compiler: &Compiler, component: Arc<[u8]>) -> bool {
    let native = compiler.compile(&engine(), component).await;
    native.unwrap_or_else(|error| panic!("{error}")).compiled_in.is_some()
}

/// The files of a cache, by the end of their names.
fn files(folder: &Path, end: &str) -> Vec<PathBuf> {
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.to_str().unwrap().ends_with(end)).collect()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// A compiler that cannot compile.
fn broken() -> Compiler {
    Compiler::by(Path::new("/nonexistent/gatepost"), Limits::DEFAULT)
}

#[tokio::test]
async fn what_was_compiled_before_needs_no_compiler() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("compiled");
    assert!(compiles(&Compiler::here().cached_in(&folder), component(1)).await);
    let later = broken().cached_in(&folder);
    assert!(!compiles(&later, component(1)).await);
    let error = later.compile(&engine(), component(2)).await.err().unwrap();
    assert!(
        error.starts_with("the compiler cannot be started (/nonexistent/gatepost): "),
        "{error}"
    );
    // Nothing was kept where there is no cache.
    let without = Compiler::here();
    assert!(compiles(&without, component(1)).await && compiles(&without, component(1)).await);
}

#[test]
fn an_engine_that_reserves_no_pool_makes_the_same_code() {
    let pooled = crate::policy::Engine::new(Compiler::here()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path()).unwrap();
    let digest = Digest::of(b"");
    assert_eq!(cache.entry(pooled.wasm(), digest), cache.entry(&engine(), digest));
    let other = wasmtime::Engine::default();
    assert_ne!(cache.entry(&other, digest), cache.entry(&engine(), digest));
    assert_ne!(cache.entry(&engine(), Digest::of(b"x")), cache.entry(&engine(), digest));
}

#[tokio::test]
async fn what_is_not_ours_is_compiled_anew_and_goes() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("compiled");
    let flip = |place: fn(usize) -> usize| {
        let path = &files(&folder, ".native")[0];
        let mut bytes = fs::read(path).unwrap();
        let place = place(bytes.len());
        bytes[place] ^= 1;
        fs::write(path, bytes).unwrap();
    };
    let ways: [(&str, &dyn Fn()); 8] = [
        ("its first byte", &|| flip(|_| 0)),
        ("a byte in the middle", &|| flip(|length| length / 2)),
        ("the last byte of the authenticator", &|| flip(|length| length - 1)),
        ("cut short", &|| {
            let path = &files(&folder, ".native")[0];
            let bytes = fs::read(path).unwrap();
            fs::write(path, &bytes[..bytes.len() - 1]).unwrap();
        }),
        ("empty", &|| fs::write(&files(&folder, ".native")[0], "").unwrap()),
        ("a link", &|| {
            let path = &files(&folder, ".native")[0];
            let elsewhere = folder.join("elsewhere");
            fs::rename(path, &elsewhere).unwrap();
            symlink(&elsewhere, path).unwrap();
        }),
        ("another component's entry under its name", &|| {
            let path = files(&folder, ".native")[0].clone();
            fs::remove_file(&path).unwrap();
            let cache = Cache::open(&folder).unwrap();
            let other = component(2);
            let entry = cache.entry(&engine(), Digest::of(&other));
            cache.put(&entry, &NativeCode::make(&engine(), &other).unwrap());
            fs::rename(cache.path(&entry), path).unwrap();
        }),
        ("another key", &|| fs::write(folder.join("key"), [7; 32]).unwrap()),
    ];
    assert!(compiles(&Compiler::here().cached_in(&folder), component(1)).await);
    for (way, spoil) in ways {
        assert!(!compiles(&broken().cached_in(&folder), component(1)).await, "{way}");
        spoil();
        let error = broken().cached_in(&folder).compile(&engine(), component(1)).await;
        assert!(error.is_err(), "{way}: it was taken");
        assert_eq!(files(&folder, ".native").len(), 0, "{way}: it is still there");
        assert!(
            compiles(&Compiler::here().cached_in(&folder), component(1)).await,
            "{way}"
        );
    }
}

#[tokio::test]
async fn folder_and_files_are_nobody_elses() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("compiled");
    let key = folder.join("key");
    assert!(compiles(&Compiler::here().cached_in(&folder), component(1)).await);
    assert_eq!((mode(&folder), mode(&key)), (0o700, 0o600));
    assert_eq!(mode(&files(&folder, ".native")[0]), 0o600);

    // Open to others, it is closed again; a key that others could read is none any more.
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    assert!(!compiles(&broken().cached_in(&folder), component(1)).await);
    assert_eq!(mode(&folder), 0o700);
    for spoil in [
        (|key| fs::set_permissions(key, fs::Permissions::from_mode(0o640)).unwrap()) as fn(&Path),
        |key| fs::write(key, "short").unwrap(),
    ] {
        let before = fs::read(&key).unwrap();
        spoil(&key);
        assert!(compiles(&Compiler::here().cached_in(&folder), component(1)).await);
        let after = fs::read(&key).unwrap();
        assert_eq!((mode(&key), after.len()), (0o600, 32));
        assert_ne!(before, after);
    }
    assert_eq!(files(&folder, "").len(), 2, "nothing is left behind");

    // Where there can be no cache, there is none, and plugins load.
    let link = place.path().join("link");
    symlink(&folder, &link).unwrap();
    fs::write(place.path().join("file"), "").unwrap();
    for nowhere in [link, place.path().join("file"), place.path().join("file/compiled")] {
        assert!(Cache::open(&nowhere).is_err(), "{}", nowhere.display());
        let compiler = Compiler::here().cached_in(&nowhere);
        assert!(compiles(&compiler, component(1)).await && compiles(&compiler, component(1)).await);
    }
}

#[tokio::test]
async fn what_cannot_be_kept_is_loaded_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("compiled");
    let compiler = Compiler::here().cached_in(&folder);
    fs::remove_dir_all(&folder).unwrap();
    assert!(compiles(&compiler, component(1)).await && compiles(&compiler, component(1)).await);
}

#[test]
fn the_cache_keeps_so_much_and_forgets_what_was_not_used_for_longest() {
    let folder = tempfile::tempdir().unwrap();
    let engine = engine();
    let code = NativeCode::make(&engine, &component(0)).unwrap();
    let size = code.0.metadata().unwrap().len() + 32;
    for bounds in [
        Bounds {
            entries: 3,
            bytes: 100 * size,
        },
        Bounds {
            entries: 100,
            bytes: 4 * size - 1,
        },
    ] {
        let _ = fs::remove_dir_all(folder.path());
        let cache = Cache::bounded(folder.path(), bounds).unwrap();
        let entry = |number: u8| cache.entry(&engine, Digest::of(&[number]));
        for number in 0..3 {
            cache.put(&entry(number), &code);
            // Their times must differ, on a disk with coarse ones too.
            let used = std::time::SystemTime::now() - Duration::from_secs(100 - u64::from(number));
            File::open(cache.path(&entry(number)))
                .unwrap()
                .set_modified(used)
                .unwrap();
        }
        // The first one is used, so the second is the oldest.
        assert!(cache.get(&entry(0)).is_some());
        cache.put(&entry(3), &code);
        let there = [0, 1, 2, 3].map(|number| cache.path(&entry(number)).exists());
        assert_eq!(there, [true, false, true, true]);
        assert_eq!(files(folder.path(), ".native").len(), 3);
        // Again is no further one.
        cache.put(&entry(3), &code);
        assert_eq!(files(folder.path(), ".native").len(), 3);
    }
    // What is larger than all of it takes nothing away.
    let small = Bounds {
        entries: 3,
        bytes: size - 1,
    };
    let small = Cache::bounded(folder.path(), small).unwrap();
    small.put(&small.entry(&engine, Digest::of(b"large")), &code);
    assert_eq!(files(folder.path(), ".native").len(), 3);

    // What another process left half written an hour ago goes as well.
    let part = folder.path().join("part-0123");
    fs::write(&part, "").unwrap();
    let cache = Cache::open(folder.path()).unwrap();
    cache.put(&cache.entry(&engine, Digest::of(b"a")), &code);
    assert!(part.exists(), "it may be being written");
    let long_ago = std::time::SystemTime::now() - Duration::from_secs(2 * 60 * 60);
    File::options()
        .write(true)
        .open(&part)
        .unwrap()
        .set_modified(long_ago)
        .unwrap();
    cache.put(&cache.entry(&engine, Digest::of(b"b")), &code);
    assert!(!part.exists());
}

#[test]
fn a_commands_cache_is_its_callers() {
    let of = |home: &str, cache: &str| {
        let found = |name: &str| match name {
            "HOME" => Some(home.into()),
            "XDG_CACHE_HOME" if !cache.is_empty() => Some(cache.into()),
            _ => None,
        };
        user_cache(found).map(|path| path.display().to_string())
    };
    assert_eq!(of("/home/a", "").as_deref(), Some("/home/a/.cache/gatepost"));
    assert_eq!(of("/home/a", "/tmp/c").as_deref(), Some("/tmp/c/gatepost"));
    assert_eq!(of("/home/a", "relative").as_deref(), Some("/home/a/.cache/gatepost"));
    assert_eq!(of("", ""), None);
}
