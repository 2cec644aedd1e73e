//! Where a test is.

use std::{
    env, fs,
    panic::Location,
    path::{Path, PathBuf},
    thread,
};

/// A call in a test.
pub(crate) struct Place {
    pub(crate) location: &'static Location<'static>,
    /// The source file, if it is on this machine.
    pub(crate) file: Option<PathBuf>,
    /// The name of the test with its modules, if the test harness has named the thread.
    pub(crate) test: Option<String>,
}

impl Place {
    #[track_caller]
    pub(crate) fn of_caller() -> Self {
        let location = Location::caller();
        // Cargo compiles in the directory of the workspace, and tests in that of the package.
        let is_file = |dir: &Path| Some(dir.join(location.file())).filter(|path| path.is_file());
        let file = env::current_dir().ok().and_then(|dir| dir.ancestors().find_map(is_file));
        let test = thread::current().name().filter(|name| *name != "main").map(str::to_owned);
        Self { location, file, test }
    }

    /// The function of the test: its name without modules.
    pub(crate) fn function(&self) -> &str {
        let test = self.test.as_deref().unwrap_or("fails");
        test.rsplit("::").next().unwrap_or(test)
    }

    /// The source code of the file.
    pub(crate) fn source(&self) -> Option<String> {
        fs::read_to_string(self.file.as_ref()?).ok()
    }
}
