//! The sites: which docroot is served where. One, of argv and one file
//! together; or with `--multi` one a file.

use super::Site;
use super::refusal::Refusal;
use super::settings::Settings;
use super::source::{Place, Said, Source, agreed};
use crate::listener::{Address, Serves};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// The keys of listeners.
const LISTENERS: [(&str, Serves); 3] = [
    ("httplisten", Serves::Http),
    ("httpgetlisten", Serves::HttpGet),
    ("mgmtlisten", Serves::Mgmt),
];

/// Where to listen when nobody says it.
const DEFAULTS: [(u16, Serves); 2] = [(7500, Serves::Http), (7501, Serves::Mgmt)];

/// A site, and where its parts were said.
struct Draft {
    docroot: Said<PathBuf>,
    listeners: Vec<(Said<Address>, Serves)>,
}

/// All sites; no docroot twice, no address twice.
pub(super) fn sites(settings: &Settings) -> Result<Vec<Site>, Refusal> {
    let drafts = drafts(settings)?;
    refuse_twin_docroots(&drafts, |one, other| one == other)?;
    refuse_twin_listeners(&drafts)?;
    Ok(drafts.into_iter().map(Draft::site).collect())
}

/// Refuses two docroots that are the same to `is_same`.
pub(super) fn refuse_twins(
    settings: &Settings,
    is_same: impl Fn(&Path, &Path) -> bool,
) -> Result<(), Refusal> {
    refuse_twin_docroots(&drafts(settings)?, is_same)
}

fn drafts(settings: &Settings) -> Result<Vec<Draft>, Refusal> {
    if settings.is_multi {
        forbid_on_argv(&settings.argv)?;
        settings
            .files
            .iter()
            .map(|(path, file)| of_file(path, file))
            .collect()
    } else {
        Ok(vec![single(settings)?])
    }
}

impl Draft {
    fn site(self) -> Site {
        Site {
            docroot: self.docroot.value,
            listeners: self
                .listeners
                .into_iter()
                .map(|(address, serves)| (address.value, serves))
                .collect(),
        }
    }
}

/// argv and one file at most: argv wins key by key, but two docroots are
/// a mistake, whoever says them.
fn single(settings: &Settings) -> Result<Draft, Refusal> {
    let docroot = match settings.path("docroot")? {
        Some(docroot) => docroot,
        None => by_nobody(settings.default("docroot")),
    };
    let mut listeners: Vec<_> = LISTENERS
        .into_iter()
        .flat_map(|(key, serves)| {
            settings
                .argv_else_files(key)
                .into_iter()
                .map(move |address| (address, serves))
        })
        .collect();
    if listeners.is_empty() {
        listeners.extend(DEFAULTS.map(|(port, serves)| {
            let everywhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
            (by_nobody(Address::Inet(everywhere)), serves)
        }));
    }
    Ok(Draft { docroot, listeners })
}

fn by_nobody<T>(value: T) -> Said<T> {
    Said {
        value,
        text: Default::default(),
        place: Place::Default,
    }
}

/// The site of one of several files.
fn of_file(path: &Path, file: &Source) -> Result<Draft, Refusal> {
    let missing = |what: &str| {
        let path = path.display();
        Refusal::of_file(format!(
            "{path}: with --multi each config needs {what}, and this has none"
        ))
    };
    let docroot =
        agreed("docroot", "path ", file.all("docroot"))?.ok_or_else(|| missing("a docroot"))?;
    let listeners: Vec<_> = LISTENERS
        .into_iter()
        .flat_map(|(key, serves)| file.all(key).into_iter().map(move |said| (said, serves)))
        .collect();
    if listeners.is_empty() {
        return Err(missing(
            "a listener (httplisten, httpgetlisten, mgmtlisten)",
        ));
    }
    Ok(Draft { docroot, listeners })
}

fn forbid_on_argv(argv: &Source) -> Result<(), Refusal> {
    let is_said = |key: &str| match key {
        "docroot" => !argv.all::<PathBuf>(key).is_empty(),
        _ => !argv.all::<Address>(key).is_empty(),
    };
    let keys = LISTENERS.map(|(key, _)| key);
    match keys.into_iter().chain(["docroot"]).find(|key| is_said(key)) {
        None => Ok(()),
        Some(key) => Err(Refusal::of_argv(format!(
            "--{key} cannot be used with --multi: each config has its own"
        ))),
    }
}

fn refuse_twin_docroots(
    drafts: &[Draft],
    is_same: impl Fn(&Path, &Path) -> bool,
) -> Result<(), Refusal> {
    for (nr, draft) in drafts.iter().enumerate() {
        let docroot = &draft.docroot;
        let twin = drafts[..nr]
            .iter()
            .map(|other| &other.docroot)
            .find(|other| is_same(&other.value, &docroot.value));
        if let Some(twin) = twin {
            return Err(Refusal::of_file(format!(
                "docroot {} has two sites: {} and {}",
                docroot.value.display(),
                twin.place,
                docroot.place
            )));
        }
    }
    Ok(())
}

fn refuse_twin_listeners(drafts: &[Draft]) -> Result<(), Refusal> {
    let mut seen: Vec<&Said<Address>> = Vec::new();
    for (address, _) in drafts.iter().flat_map(|draft| &draft.listeners) {
        if let Some(twin) = seen.iter().find(|twin| twin.value == address.value) {
            return Err(Refusal::of([&twin.place, &address.place], {
                let (one, two) = (&twin.place, &address.place);
                format!("listener {} is given twice: {one} and {two}", address.value)
            }));
        }
        // Port 0 is another one each time.
        let is_any = matches!(&address.value, Address::Inet(inet) if inet.port() == 0);
        if !is_any {
            seen.push(address);
        }
    }
    Ok(())
}
