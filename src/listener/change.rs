//! From the listeners that there are to those that the configuration wants: what
//! stays, what is bound, what goes. All of it takes place, or nothing.

use super::{Address, Listener, Place, Refused, Serves};
use std::collections::HashMap;
use std::io;
use std::time::{Duration, Instant};

/// While an address is in use (by workers of an earlier configuration that still
/// drain, or by a server that is being stopped) the attempt is repeated.
const TRIES: u32 = 5;
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// What there is, as far as it decides where it belongs.
pub(super) struct Have<'a> {
    /// As an earlier configuration said it.
    pub asked: Option<&'a Address>,
    pub bound: Option<&'a Address>,
    pub serves: Option<Serves>,
    /// Bound to an IPv6 address, and takes IPv4 too.
    pub is_dual: bool,
    /// Whether it may be what port 0 of its IP address stands for.
    pub any_port: bool,
}

impl Have<'_> {
    fn is_at(&self, place: &Place) -> bool {
        [self.asked, self.bound].contains(&Some(&place.address))
    }

    fn does_the_same(&self, place: &Place) -> bool {
        self.is_at(place) && self.serves == Some(place.serves)
    }

    fn is_any_port_of(&self, place: &Place) -> bool {
        let (Some(Address::Inet(bound)), Address::Inet(wanted)) = (self.bound, &place.address)
        else {
            return false;
        };
        self.any_port
            && wanted.port() == 0
            && bound.ip() == wanted.ip()
            && self.serves.is_none_or(|serves| serves == place.serves)
    }

    /// systemd's `ListenStream=7500` is one socket for both IPs, where 7500 here
    /// is IPv4's: binding that beside it would fail.
    fn takes_all_of(&self, place: &Place) -> bool {
        let (Some(Address::Inet(bound)), Address::Inet(wanted)) = (self.bound, &place.address)
        else {
            return false;
        };
        let is_any = bound.ip().is_unspecified() && wanted.ip().is_unspecified();
        self.is_dual && is_any && wanted.is_ipv4() && bound.port() == wanted.port()
    }
}

/// For each place the number of the one that serves it, if there is one. Who fits
/// better chooses first, so port 0 gets only what nobody names.
pub(super) fn assign(haves: &[Have<'_>], places: &[Place]) -> Vec<Option<usize>> {
    let mut chosen: Vec<Option<usize>> = vec![None; places.len()];
    for fits in [
        Have::does_the_same,
        Have::is_at,
        Have::is_any_port_of,
        Have::takes_all_of,
    ] {
        for (nr, place) in places.iter().enumerate() {
            if chosen[nr].is_none() {
                chosen[nr] = haves
                    .iter()
                    .enumerate()
                    .position(|(nr, have)| !chosen.contains(&Some(nr)) && fits(have, place));
            }
        }
    }
    chosen
}

/// Binds the places that nobody has taken; all listeners in the places' order.
/// After a failure nothing is left of those that were bound.
pub(super) fn bind_missing(
    places: &[Place],
    mut taken: HashMap<usize, Listener>,
) -> Result<Vec<Listener>, Refused> {
    let mut bound = Fresh(Vec::new());
    for (nr, place) in places.iter().enumerate() {
        if !taken.contains_key(&nr) {
            bound.0.push((nr, Listener::bind(place)?));
        }
    }
    taken.extend(std::mem::take(&mut bound.0));
    Ok((0..places.len())
        .filter_map(|nr| taken.remove(&nr))
        .collect())
}

/// Listeners that were bound for what has not taken place yet.
struct Fresh(Vec<(usize, Listener)>);

impl Drop for Fresh {
    fn drop(&mut self) {
        for (_, listener) in &self.0 {
            listener.unlink();
        }
    }
}

/// A change that is planned.
pub struct Change {
    places: Vec<Place>,
    kept: Vec<Option<usize>>,
    /// What goes: it may be in the way of what comes.
    going: Vec<Address>,
    is_needed: bool,
    tries: u32,
}

/// What came of an attempt.
pub enum Binding {
    Ready(Ready),
    /// An address is in use: again at that moment.
    Busy {
        change: Change,
        again: Instant,
        refused: Refused,
    },
    Refused(Refused),
}

/// A change that cannot fail any more. Dropped, it has never been.
pub struct Ready {
    places: Vec<Place>,
    kept: Vec<Option<usize>>,
    bound: Fresh,
}

impl Change {
    /// From `listeners` to `places`; nothing is done yet.
    pub fn plan(listeners: &[Listener], places: Vec<Place>) -> Change {
        let haves: Vec<Have<'_>> = listeners.iter().map(have).collect();
        let kept = assign(&haves, &places);
        let going = listeners.iter().enumerate();
        let going: Vec<Address> = going
            .filter(|(nr, _)| !kept.contains(&Some(*nr)))
            .map(|(_, listener)| listener.address.clone())
            .collect();
        let is_same = |(place, kept): (&Place, &Option<usize>)| {
            kept.is_some_and(|nr| {
                let old = &listeners[nr];
                (old.serves, old.site) == (place.serves, place.site)
            })
        };
        Change {
            is_needed: !(going.is_empty() && places.iter().zip(&kept).all(is_same)),
            places,
            kept,
            going,
            tries: 0,
        }
    }

    /// Whether a socket comes or goes, or serves another thing.
    pub fn is_needed(&self) -> bool {
        self.is_needed
    }

    /// Binds what is missing. It never waits.
    pub fn bind(mut self) -> Binding {
        let mut bound = Fresh(Vec::new());
        for (nr, place) in self.places.iter().enumerate() {
            if self.kept[nr].is_some() {
                continue;
            }
            match Listener::bind(place) {
                Ok(listener) => bound.0.push((nr, listener)),
                Err(refused) => {
                    self.tries += 1;
                    return self.again(refused);
                }
            }
        }
        Binding::Ready(Ready {
            places: self.places,
            kept: self.kept,
            bound,
        })
    }

    fn again(self, mut refused: Refused) -> Binding {
        if refused.error.raw_os_error() != Some(libc::EADDRINUSE) {
            return Binding::Refused(refused);
        }
        let port = |address: &Address| match address {
            Address::Inet(inet) => Some(inet.port()),
            Address::Unix(_) => None,
        };
        let wanted = port(&refused.address).filter(|port| *port != 0);
        let mut going = self.going.iter();
        if let Some(ours) = going.find(|ours| wanted.is_some() && port(ours) == wanted) {
            let error = refused.error;
            refused.error = io::Error::other(format!(
                "{error}: {ours} of this server is in its way, and serves until all is ready; \
                 remove that first, or start anew"
            ));
            return Binding::Refused(refused);
        }
        if self.tries >= TRIES {
            return Binding::Refused(refused);
        }
        Binding::Busy {
            change: self,
            again: Instant::now() + AGAIN_AFTER,
            refused,
        }
    }
}

impl Ready {
    /// `listeners` are those that it was planned for. Gives those of the new
    /// configuration, in its order, and those that go: close their doors.
    pub fn apply(mut self, listeners: Vec<Listener>) -> (Vec<Listener>, Vec<Listener>) {
        let mut old: Vec<Option<Listener>> = listeners.into_iter().map(Some).collect();
        let mut now: HashMap<usize, Listener> =
            std::mem::take(&mut self.bound.0).into_iter().collect();
        for (nr, place) in self.places.iter().enumerate() {
            let kept = self.kept[nr].and_then(|nr| old.get_mut(nr)?.take());
            if let Some(mut listener) = kept {
                listener.serves = place.serves;
                listener.site = place.site;
                listener.asked = place.address.clone();
                now.insert(nr, listener);
            }
        }
        let places = 0..self.places.len();
        let listeners = places.filter_map(|nr| now.remove(&nr)).collect();
        (listeners, old.into_iter().flatten().collect())
    }
}

fn have(listener: &Listener) -> Have<'_> {
    Have {
        asked: Some(&listener.asked),
        bound: Some(&listener.address),
        serves: Some(listener.serves),
        is_dual: listener.is_dual(),
        any_port: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;

    fn inet(text: &str) -> Address {
        Address::Inet(text.parse().unwrap())
    }

    fn place(text: &str, serves: Serves) -> Place {
        let address = Address::parse(text).unwrap();
        Place {
            address,
            serves,
            site: 0,
        }
    }

    fn found(address: &Address) -> Have<'_> {
        Have {
            asked: None,
            bound: Some(address),
            serves: None,
            is_dual: false,
            any_port: true,
        }
    }

    #[test]
    fn an_address_goes_to_who_names_it() {
        let (a, b) = (inet("127.0.0.1:5"), inet("127.0.0.1:6"));
        let haves = [found(&a), found(&b)];
        let places = [
            place("127.0.0.1:0", Serves::Http),
            place("127.0.0.1:5", Serves::Mgmt),
            place("127.0.0.2:6", Serves::Http),
        ];
        assert_eq!(assign(&haves, &places), [Some(1), Some(0), None]);
    }

    #[test]
    fn port_0_takes_what_does_the_same() {
        let all: Vec<Address> = (5..9)
            .map(|port| inet(&format!("127.0.0.1:{port}")))
            .collect();
        let mut haves: Vec<Have<'_>> = all.iter().map(found).collect();
        haves[0].serves = Some(Serves::Mgmt);
        haves[1].any_port = false;
        haves[2].serves = Some(Serves::Http);
        let places = [
            place("127.0.0.1:0", Serves::Http),
            place("127.0.0.1:0", Serves::Mgmt),
            place("127.0.0.1:0", Serves::Http),
            place("127.0.0.1:0", Serves::Http),
            place("[::1]:0", Serves::Http),
        ];
        let chosen = assign(&haves, &places);
        assert_eq!(chosen, [Some(2), Some(0), Some(3), None, None]);
    }

    #[test]
    fn one_socket_for_both_ips() {
        let both = inet("[::]:7500");
        let mut have = found(&both);
        have.is_dual = true;
        let places = [place("7500", Serves::Http)];
        assert_eq!(assign(&[have], &places), [Some(0)]);
        assert_eq!(assign(&[found(&both)], &places), [None]);
        let mut have = found(&both);
        have.is_dual = true;
        let places = [
            place("7500", Serves::Http),
            place("[::]:7500", Serves::Mgmt),
        ];
        assert_eq!(assign(&[have], &places), [None, Some(0)]);
    }

    fn ready(change: Change) -> Ready {
        match change.bind() {
            Binding::Ready(ready) => ready,
            Binding::Busy { refused, .. } | Binding::Refused(refused) => panic!("{refused}"),
        }
    }

    #[test]
    fn a_change_keeps_binds_and_lets_go() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let unix = format!("unix:{}", path.display());
        let any = place("127.0.0.1:0", Serves::Http);
        let before = [any.clone(), place("127.0.0.1:0", Serves::Mgmt)];
        let old = bind_missing(&before, HashMap::new()).unwrap();
        let (kept, gone) = (old[0].address.clone(), old[1].address.clone());
        assert!(!Change::plan(&old, before.to_vec()).is_needed());

        let after = vec![place(&unix, Serves::Http), any.clone()];
        let change = Change::plan(&old, after.clone());
        assert!(change.is_needed());
        // Dropped, it leaves nothing.
        drop(ready(change));
        assert!(!path.exists());
        let (now, left) = ready(Change::plan(&old, after)).apply(old);
        assert!(path.exists());
        let addresses: Vec<_> = now
            .iter()
            .map(|listener| listener.address.clone())
            .collect();
        assert_eq!(addresses, [Address::Unix(path), kept]);
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].address, gone);
        let Address::Inet(gone) = gone else { panic!() };
        TcpStream::connect(gone).expect("it still listens");
        drop(left);
        TcpStream::connect(gone).expect_err("nobody has it any more");

        // The same socket for another purpose.
        let other = vec![
            place(&unix, Serves::Http),
            place("127.0.0.1:0", Serves::HttpGet),
        ];
        let change = Change::plan(&now, other);
        assert!(change.is_needed() && change.going.is_empty());
        let (now, left) = ready(change).apply(now);
        assert!(left.is_empty());
        assert_eq!(now[1].serves, Serves::HttpGet);
        now.iter().for_each(Listener::unlink);
    }

    #[test]
    fn a_busy_address_is_tried_again_and_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let places = vec![
            place(&format!("unix:{}", path.display()), Serves::Http),
            place(&taken.local_addr().unwrap().to_string(), Serves::Http),
        ];
        let mut change = Change::plan(&[], places);
        for _ in 1..TRIES {
            let Binding::Busy { change: same, .. } = change.bind() else {
                panic!("expected to be told to wait");
            };
            change = same;
            assert!(!path.exists());
        }
        assert!(matches!(change.bind(), Binding::Refused(_)));
        assert!(!path.exists());
    }

    #[test]
    fn our_own_wider_address_is_in_the_way() {
        let old = bind_missing(&[place("0.0.0.0:0", Serves::Http)], HashMap::new()).unwrap();
        let Address::Inet(bound) = &old[0].address else {
            panic!()
        };
        let places = vec![place(&format!("127.0.0.1:{}", bound.port()), Serves::Http)];
        let Binding::Refused(refused) = Change::plan(&old, places).bind() else {
            panic!("expected a refusal");
        };
        assert!(refused.to_string().contains("is in its way"), "{refused}");
    }
}
