//! Where models live.

use std::path::{Path, PathBuf};

use super::ConfigError;

/// Finds a model: the directory of that path if it exists; else, for a bare name,
/// `models/NAME` in the working directory, then `share/longwave/models/NAME` of the prefix that
/// the program is installed under (`/usr` for `/usr/bin/longwave`).
pub fn find_model(name: &Path) -> Result<PathBuf, ConfigError> {
    let mut places = vec![name.to_owned()];
    if is_bare_name(name) {
        places.push(Path::new("models").join(name));
        let prefix = std::env::current_exe().ok();
        let prefix = prefix
            .as_deref()
            .and_then(Path::parent)
            .and_then(Path::parent);
        places.extend(prefix.map(|at| at.join("share/longwave/models").join(name)));
    }
    let found = places.iter().find(|place| place.is_dir()).cloned();
    found.ok_or_else(|| {
        let tried: Vec<String> = places
            .iter()
            .map(|place| place.display().to_string())
            .collect();
        ConfigError::NoModel {
            name: name.to_owned(),
            tried: tried.join(", "),
        }
    })
}

/// Is it a name to look for, not a way to go?
pub(super) fn is_bare_name(path: &Path) -> bool {
    path.components().count() == 1 && path.file_name() == Some(path.as_os_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_that_is_nowhere_tells_where_it_was_sought() {
        let why = find_model(Path::new("no-such")).unwrap_err().to_string();
        assert!(
            why.contains("models/no-such") && why.contains("share/longwave"),
            "{why}"
        );
        let why = find_model(Path::new("./no-such")).unwrap_err().to_string();
        assert!(!why.contains("share/longwave"), "{why}");
    }
}
