//! A bundle: what the configuration names, put together from the descriptors that came with it.

use super::*;

use bytes::Bytes;
use zeroize::Zeroizing;

use crate::admin::protocol::COMPONENT_LIMIT;
use crate::tls::PemFile;

/// The largest certificate, key, password or token file, in bytes.
const SECRET_BYTES_MAX: u64 = 1024 * 1024;
/// The largest users file, in bytes: some hundred thousand users.
const USERS_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// The largest configuration, in bytes.
const CONFIG_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// The largest of all files.
pub(crate) const FILE_BYTES_MAX: u64 = COMPONENT_LIMIT;

/// Everything that is to be in force, as of one moment.
pub struct Bundle {
    pub config: Config,
    /// In the order of the configuration.
    pub listeners: Vec<BoundListener>,
    /// `[admin] address`; its name is `admin`.
    pub admin_http: Option<BoundListener>,
    pub secrets: Secrets,
    /// In the order of the configuration.
    pub plugins: Vec<PluginFile>,
    /// Those of the plugins whose file holds something newer that is no good.
    pub kept: Vec<Kept>,
    /// Only at the start: what the worker before knew of plugins' histories.
    pub history: History,
}

/// What does not follow from the configuration and its files.
#[derive(Debug, Default)]
pub struct History {
    /// Settings that are in force instead of those of the configuration.
    pub stand_ins: Vec<config::Plugin>,
    /// The versions that plugins had before.
    pub previous: Vec<(config::Plugin, Bytes)>,
    /// Why the version that a plugin had before was taken back.
    pub taken_back: Vec<Kept>,
    pub disabled: BTreeSet<String>,
}

/// What must not be found in a log or in a core dump. Wiped when dropped.
#[derive(Default)]
pub struct Secrets {
    /// The pairs of `[tls]`, the default one first.
    pub certificates: Vec<CertificatePem>,
    pub users: Option<UsersFile>,
    /// The password of each route's `password_file`, by that path.
    pub passwords: HashMap<PathBuf, Zeroizing<String>>,
    pub admin_token: Option<Zeroizing<String>>,
    /// The state server's.
    pub state_password: Option<Zeroizing<String>>,
    /// The keys of `[[dkim]]`, in its order.
    pub dkim: Vec<PemFile>,
}

/// The users file, not parsed.
pub struct UsersFile {
    pub path: PathBuf,
    pub bytes: Zeroizing<Vec<u8>>,
}

/// A plugin's component, not looked at.
#[derive(Clone, Debug)]
pub struct PluginFile {
    pub name: String,
    pub path: PathBuf,
    pub bytes: Bytes,
}

/// Every file but the plugins' that a configuration names for the supervisor to read, each once, with the most bytes that it may have.
pub(crate) fn files_of(config: &Config) -> Vec<(PathBuf, u64)> {
    let mut files: Vec<(PathBuf, u64)> = Vec::new();
    let mut add = |path: &Path, most: u64| match files.iter_mut().find(|(known, _)| known == path) {
        Some((_, known)) => *known = (*known).max(most),
        None => files.push((path.to_owned(), most)),
    };
    for pair in config.tls.iter().flat_map(|tls| tls.certificates()) {
        add(&pair.certificate, SECRET_BYTES_MAX);
        add(&pair.key, SECRET_BYTES_MAX);
    }
    if let Some(users) = &config.auth.users {
        add(users, USERS_BYTES_MAX);
    }
    for credentials in config.all_routes().filter_map(|route| route.credentials.as_ref()) {
        add(&credentials.password_file, SECRET_BYTES_MAX);
    }
    if let Some(token) = &config.admin.token_file {
        add(token, SECRET_BYTES_MAX);
    }
    if let Some(password) = state_password(config) {
        add(password, SECRET_BYTES_MAX);
    }
    for dkim in &config.dkim {
        add(&dkim.key, SECRET_BYTES_MAX);
    }
    files
}

fn state_password(config: &Config) -> Option<&Path> {
    config.state.as_ref()?.password_file.as_deref()
}

/// The files of a bundle by path, read from their descriptors.
struct Files(HashMap<PathBuf, Zeroizing<Vec<u8>>>);

impl Files {
    fn get(&self, path: &Path) -> anyhow::Result<&Zeroizing<Vec<u8>>> {
        self.0
            .get(path)
            .with_context(|| format!("{}: the supervisor did not pass this file", path.display()))
    }

    fn pem(&self, path: &Path) -> anyhow::Result<PemFile> {
        Ok(PemFile {
            path: path.to_owned(),
            bytes: self.get(path)?.clone(),
        })
    }

    /// A file whose first line, its line end apart, is the secret, and which has nothing else.
    fn line(&self, path: &Path) -> anyhow::Result<Zeroizing<String>> {
        let text = std::str::from_utf8(self.get(path)?)
            .ok()
            .with_context(|| format!("{}: is not UTF-8 text", path.display()))?;
        let line = text.strip_suffix('\n').unwrap_or(text);
        let line = line.strip_suffix('\r').unwrap_or(line);
        if line.is_empty() || line.contains(['\n', '\r', '\0']) {
            bail!("{}: must be one line, the secret, and nothing else", path.display());
        }
        Ok(Zeroizing::new(line.to_owned()))
    }
}

pub(super) fn assemble(header: Header, fds: Vec<OwnedFd>) -> anyhow::Result<Bundle> {
    if header.items.len() != fds.len() {
        bail!(
            "a bundle of {} items came with {} descriptors",
            header.items.len(),
            fds.len()
        );
    }
    let (mut text, mut listeners, mut admin_http) = (None, Vec::new(), None);
    let mut files = Files(HashMap::new());
    let mut components = HashMap::new();
    let mut before = HashMap::new();
    for (item, fd) in header.items.into_iter().zip(fds) {
        match item {
            Item::Config => text = Some(String::from_utf8(read(fd, CONFIG_BYTES_MAX)?.to_vec())?),
            Item::File { path } => {
                let bytes = read(fd, FILE_BYTES_MAX).with_context(|| path.display().to_string())?;
                files.0.insert(path, bytes);
            }
            Item::Plugin { name } => {
                let bytes = read(fd, FILE_BYTES_MAX).with_context(|| format!("plugin {name:?}"))?;
                components.insert(name, Bytes::copy_from_slice(&bytes));
            }
            Item::Previous { name } => {
                let bytes = read(fd, FILE_BYTES_MAX).with_context(|| format!("plugin {name:?}"))?;
                before.insert(name, Bytes::copy_from_slice(&bytes));
            }
            Item::Listener { name, address, socket } => {
                listeners.push(BoundListener {
                    name,
                    address,
                    socket,
                    listener: fd.into(),
                });
            }
            Item::AdminHttp { address, socket } => {
                admin_http = Some(BoundListener {
                    name: "admin".into(),
                    address,
                    socket,
                    listener: fd.into(),
                });
            }
            // Never closed: the lock is to last as long as this process.
            Item::Lock => std::mem::forget(fd),
        }
    }
    let text = text.context("a bundle without a configuration")?;
    let mut config = Config::parse(&text, &header.config_path)?;
    if header.embedded {
        config.file = None;
    }
    for (path, most) in files_of(&config) {
        let length = files.get(&path)?.len() as u64;
        if length > most {
            bail!("{}: {length} bytes are more than {most}", path.display());
        }
    }
    let mut secrets = Secrets::default();
    for pair in config.tls.iter().flat_map(|tls| tls.certificates()) {
        secrets.certificates.push(CertificatePem {
            certificate: files.pem(&pair.certificate)?,
            key: files.pem(&pair.key)?,
        });
    }
    if let Some(path) = &config.auth.users {
        secrets.users = Some(UsersFile {
            path: path.clone(),
            bytes: files.get(path)?.clone(),
        });
    }
    for credentials in config.all_routes().filter_map(|route| route.credentials.as_ref()) {
        let path = &credentials.password_file;
        secrets.passwords.insert(path.clone(), files.line(path)?);
    }
    if let Some(path) = &config.admin.token_file {
        secrets.admin_token = Some(files.line(path)?);
    }
    if let Some(path) = state_password(&config) {
        secrets.state_password = Some(files.line(path)?);
    }
    for dkim in &config.dkim {
        secrets.dkim.push(files.pem(&dkim.key)?);
    }
    let plugin = |plugin: &config::Plugin| {
        let bytes = components.remove(&plugin.name);
        anyhow::Ok(PluginFile {
            name: plugin.name.clone(),
            path: plugin.file.clone(),
            bytes: bytes
                .with_context(|| format!("{}: the supervisor did not pass this file", plugin.file.display()))?,
        })
    };
    let plugins = config.plugins.iter().map(plugin).collect::<Result<_, _>>()?;
    let previous = header.previous.into_iter();
    let history = History {
        stand_ins: header.stand_ins,
        previous: previous
            .filter_map(|settings| before.remove(&settings.name).map(|component| (settings, component)))
            .collect(),
        taken_back: header.taken_back,
        disabled: header.disabled,
    };
    Ok(Bundle {
        config,
        listeners,
        admin_http,
        secrets,
        plugins,
        kept: header.kept,
        history,
    })
}

/// What a descriptor holds, if that is no more than `most` bytes.
pub(super) fn read(fd: OwnedFd, most: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut file = std::fs::File::from(fd);
    // At once in the right size: a buffer that grows leaves copies behind that are not wiped.
    let expected = file.metadata()?.len().min(most);
    let mut bytes = Zeroizing::new(Vec::with_capacity(expected as usize + 1));
    // From its beginning: another worker may have read from the same descriptor before.
    file.rewind()?;
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(too_large(most));
    }
    Ok(bytes)
}
