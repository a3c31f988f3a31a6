//! The account that PostgreSQL runs under when this process is root, which PostgreSQL refuses.

use std::os::unix::fs::{MetadataExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, io_error};

/// An unprivileged account, to which a command can be switched with the standard library alone.
#[derive(Debug, Clone)]
pub(crate) struct Account {
    name: &'static str,
    uid: u32,
    gid: u32,
}

impl Account {
    /// The account to switch to, or none when this process is not root and needs no switching.
    pub(crate) fn for_postgres() -> Result<Option<Self>, Error> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        for name in ["postgres", "nobody"] {
            if let (Some(uid), Some(gid)) = (id("-u", name)?, id("-g", name)?) {
                return Ok(Some(Self { name, uid, gid }));
            }
        }
        Err(Error::NoAccount)
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Makes the command run under this account, without root's supplementary groups.
    pub(crate) fn apply(&self, command: &mut Command) {
        command.uid(self.uid).gid(self.gid);
    }

    /// Gives a file or folder to this account.
    pub(crate) fn own(&self, path: &Path) -> Result<(), Error> {
        chown(path, Some(self.uid), Some(self.gid)).map_err(io_error(format!(
            "cannot give {} to user {}",
            path.display(),
            self.name
        )))
    }

    /// The first folder on the way to `path` (itself included) that this account may not enter.
    pub(crate) fn blocked_at(&self, path: &Path) -> Result<Option<PathBuf>, Error> {
        let mut folders: Vec<&Path> = path.ancestors().filter(|folder| !folder.as_os_str().is_empty()).collect();
        folders.reverse();
        for folder in folders {
            let metadata = folder.metadata().map_err(io_error(format!("cannot examine {}", folder.display())))?;
            let needed = if metadata.uid() == self.uid { 0o100 } else { 0o001 };
            if metadata.mode() & needed == 0 {
                return Ok(Some(folder.to_owned()));
            }
        }
        Ok(None)
    }
}

/// Asks `id`, which also knows accounts that are not in /etc/passwd.
fn id(flag: &str, name: &str) -> Result<Option<u32>, Error> {
    let output = Command::new("id").args([flag, name]).output().map_err(io_error("cannot run `id`"))?;
    Ok(output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().parse().ok()).flatten())
}
