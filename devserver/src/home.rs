//! The folder of one private server: its data, its password, its log, and a lock against a second user.

use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::account::Account;
use crate::error::{Error, io_error};
use crate::random;

#[derive(Debug)]
pub(crate) struct Home {
    path: PathBuf,
    temporary: bool,
    /// Held until this process ends; two servers over the same data would destroy it.
    _lock: File,
}

impl Home {
    /// Takes the given folder, which is kept, or makes a temporary one, which the watchdog removes.
    pub(crate) fn open(given: Option<&Path>, account: Option<&Account>) -> Result<Self, Error> {
        let (path, temporary) = match given {
            Some(path) => (Self::keep(path)?, false),
            None => (Self::temporary(account)?, true),
        };
        match Self::prepare(&path, account) {
            Ok(lock) => Ok(Self { path, temporary, _lock: lock }),
            Err(error) => {
                if temporary {
                    // The first error is the one worth telling; an empty folder left behind is not.
                    let _ = fs::remove_dir_all(&path);
                }
                Err(error)
            }
        }
    }

    fn keep(path: &Path) -> Result<PathBuf, Error> {
        fs::create_dir_all(path).map_err(io_error(format!("cannot create the data folder {}", path.display())))?;
        path.canonicalize().map_err(io_error(format!("cannot examine {}", path.display())))
    }

    fn temporary(account: Option<&Account>) -> Result<PathBuf, Error> {
        let mut bases = vec![std::env::temp_dir()];
        if account.is_some() {
            // Root's TMPDIR may be a private folder that the other account cannot enter.
            bases.extend([PathBuf::from("/tmp"), PathBuf::from("/var/tmp")]);
        }
        let mut refused = None;
        for base in bases {
            let made = base
                .canonicalize()
                .and_then(|base| {
                    tempfile::Builder::new()
                        .prefix("windrow-")
                        .permissions(Permissions::from_mode(0o700))
                        .tempdir_in(base)
                })
                .map_err(io_error(format!("cannot create a temporary folder in {}", base.display())));
            let folder = match made {
                Ok(folder) => folder,
                Err(error) => {
                    refused.get_or_insert(error);
                    continue;
                }
            };
            let parent = folder.path().parent().unwrap_or(Path::new("/"));
            match account.map(|account| account.blocked_at(parent)).transpose()?.flatten() {
                None => return Ok(folder.keep()),
                Some(blocked) => {
                    let user = account.map(|account| account.name().to_owned()).unwrap_or_default();
                    refused.get_or_insert(Error::Unreachable { blocked, user });
                }
            }
        }
        Err(refused.expect("at least one base folder was tried"))
    }

    fn prepare(path: &Path, account: Option<&Account>) -> Result<File, Error> {
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path.join("lock"))
            .map_err(io_error(format!("cannot write to {}", path.display())))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::FolderInUse { path: path.to_owned() }),
            Err(TryLockError::Error(error)) => {
                return Err(io_error(format!("cannot lock {}", path.display()))(error));
            }
        }
        if let Some(account) = account {
            account.own(path)?;
            if let Some(blocked) = account.blocked_at(path)? {
                return Err(Error::Unreachable { blocked, user: account.name().to_owned() });
            }
        }
        Ok(lock)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn is_temporary(&self) -> bool {
        self.temporary
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.path.join("server.log")
    }

    /// The server's password: made once, then kept with the data so that a kept folder can be used again.
    pub(crate) fn password(&self) -> Result<String, Error> {
        let path = self.password_file();
        match fs::read_to_string(&path) {
            Ok(password) => return Ok(password.trim().to_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io_error(format!("cannot read {}", path.display()))(error)),
        }
        let password = random::password()?;
        self.write_private("password", &password)?;
        Ok(password)
    }

    pub(crate) fn password_file(&self) -> PathBuf {
        self.path.join("password")
    }

    /// Writes a file that only its owner may read.
    pub(crate) fn write_private(&self, name: &str, text: &str) -> Result<PathBuf, Error> {
        let path = self.path.join(name);
        OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(io_error(format!("cannot write {}", path.display())))?;
        Ok(path)
    }
}
