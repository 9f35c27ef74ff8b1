//! Which entries of a snapshot a restore is asked for.

use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use anyhow::{Result, bail};

use crate::log::printable;

/// The paths that were asked for, and which of them were met. None asks for all.
#[derive(Clone, Debug)]
pub struct Wanted(Vec<Asked>);

#[derive(Clone, Debug)]
struct Asked {
    given: PathBuf,
    relative: PathBuf,
    met: bool,
}

impl Wanted {
    /// Takes `paths` as they are on the server, with or without the slash before them.
    pub fn new(paths: &[PathBuf]) -> Result<Self> {
        let paths = paths.iter().map(|given| Ok(Asked { given: given.clone(), relative: relative(given)?, met: false }));
        Ok(Self(paths.collect::<Result<_>>()?))
    }

    /// Whether everything is.
    pub fn is_all(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the entry `path` is: it was asked for itself, or lies below what was.
    pub fn takes(&mut self, path: &Path) -> bool {
        let mut takes = self.is_all();
        for wanted in &mut self.0 {
            if path.starts_with(&wanted.relative) {
                wanted.met = true;
                takes = true;
            }
        }
        takes
    }

    /// What was asked for and not met, printable.
    pub fn unmet(&self) -> Vec<String> {
        self.0.iter().filter(|wanted| !wanted.met).map(|wanted| printable(wanted.given.as_os_str().as_bytes())).collect()
    }
}

fn relative(path: &Path) -> Result<PathBuf> {
    let mut relative = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => relative.push(name),
            Component::RootDir | Component::CurDir => {}
            _ => bail!(
                "{} is no path in a snapshot\nhint: write it as it is on the server, without `..`",
                printable(path.as_os_str().as_bytes())
            ),
        }
    }
    Ok(relative)
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::Wanted;

    #[test]
    fn a_path_takes_itself_and_what_is_below_it() {
        let mut wanted = Wanted::new(&["/srv/www/", "etc//hostname", "gone"].map(PathBuf::from)).unwrap();
        for (path, takes) in [
            ("srv/www", true),
            ("srv/www/a/b", true),
            ("srv", false),
            ("srv/www2", false),
            ("etc/hostname", true),
            ("etc", false),
        ] {
            assert_eq!(wanted.takes(Path::new(path)), takes, "{path}");
        }
        assert_eq!(wanted.unmet(), ["gone"]);
        assert!(Wanted::new(&[PathBuf::from("/srv/../etc")]).is_err());
    }

    #[test]
    fn no_path_and_the_root_take_all() {
        for paths in [Vec::new(), vec![PathBuf::from("/")]] {
            let mut wanted = Wanted::new(&paths).unwrap();
            assert!(wanted.takes(Path::new("srv")));
            assert!(wanted.unmet().is_empty());
        }
    }
}
