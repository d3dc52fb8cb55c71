//! What the elected worker does all day: a loop whose rounds never wait for a
//! disk. All that may hang is done in threads of their own, which say what they
//! found; their silence is noticed here.

use super::gauge::Gauge;
use super::iostat::Line;
use super::probe::{Finding, Id};
use super::survey::{self, Found};
use super::ward::Ward;
use super::{Office, Start};
use crate::config::Site;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

/// A round takes so long when there is no news.
const ROUND: Duration = Duration::from_millis(100);

/// Disks that have not answered by then do not hold up a start.
const FIRST_ROUND: Duration = Duration::from_secs(2);

/// Watchers can ask for a refresh at most so often.
const REFRESHED_AGAIN: Duration = Duration::from_millis(250);

/// What the threads say to the elected one.
pub enum News {
    /// Look up: nothing is wrong with the disks.
    Wake,
    Docroot(usize, io::Result<Vec<Found>>),
    Device(Id, Finding),
    Report(Vec<Line>),
}

/// A docroot and its thread.
struct Surveyor {
    site: Site,
    orders: Option<Sender<()>>,
    busy: bool,
    /// It has answered this leader.
    seen: bool,
    complaint: Option<String>,
}

/// See the module.
pub struct Rounds {
    office: Arc<Office>,
    surveyors: Vec<Surveyor>,
    ward: Ward,
    gauge: Gauge,
    interval: Duration,
    news: Receiver<News>,
    tell: Sender<News>,
    first_round: Option<Box<dyn FnOnce() + Send>>,
}

impl Rounds {
    pub fn new(
        start: Start,
        office: Arc<Office>,
        tell: Sender<News>,
        news: Receiver<News>,
    ) -> Rounds {
        let surveyors = start.sites.iter().map(|site| Surveyor {
            site: site.clone(),
            orders: None,
            busy: false,
            seen: false,
            complaint: None,
        });
        Rounds {
            surveyors: surveyors.collect(),
            gauge: Gauge::new(start.knobs.utilization),
            interval: start.knobs.usage_interval,
            ward: Ward::new(
                start.sites,
                start.board,
                start.umask,
                start.knobs.probe_timeout,
                tell.clone(),
            ),
            office,
            news,
            tell,
            first_round: Some(start.first_round),
        }
    }

    /// Nothing to do for so long, unless this process is to leave.
    pub fn idle(&self, span: Duration) {
        let end = Instant::now() + span;
        while !self.office.is_leaving() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || matches!(self.news.recv_timeout(left), Ok(News::Wake)) {
                return;
            }
        }
    }

    /// There will be no first round: nobody shall wait for it.
    pub fn give_up(&mut self) {
        if let Some(tell) = self.first_round.take() {
            tell();
        }
    }

    /// Leads as long as this process holds the office.
    pub fn lead(&mut self) {
        let office = Arc::clone(&self.office);
        let board = &office.board;
        let begun = Instant::now();
        let mut wanted = board.refreshes_wanted();
        let (mut due, mut refreshed) = (begun, None);
        for surveyor in &mut self.surveyors {
            surveyor.seen = false;
        }
        self.ward.begin();
        self.gauge.begin(board, &self.tell);
        while office.is_held() {
            board.leader_tick();
            let now = Instant::now();
            let wants = board.refreshes_wanted();
            let recently = |at: Instant| now.saturating_duration_since(at) < REFRESHED_AGAIN;
            if now >= due || (wants != wanted && !refreshed.is_some_and(recently)) {
                (wanted, refreshed, due) = (wants, Some(now), now + self.interval);
                self.refresh();
            }
            self.ward.look(now);
            self.gauge.look(now, &self.ward, board);
            if self.first_round.is_some() && (self.is_seen() || begun.elapsed() >= FIRST_ROUND) {
                self.give_up();
            }
            let end = (now + ROUND).min(self.gauge.due());
            self.hear(end.saturating_duration_since(Instant::now()));
        }
        self.gauge.end();
        self.ward.end();
    }

    /// Whether every docroot and every device that answers has its usage file.
    fn is_seen(&self) -> bool {
        self.surveyors.iter().all(|surveyor| surveyor.seen) && self.ward.is_seen()
    }

    /// The docroots are listed anew, and then their devices looked at.
    fn refresh(&mut self) {
        for (nr, surveyor) in self.surveyors.iter_mut().enumerate() {
            if surveyor.busy {
                // It hangs, or a whole interval was not enough.
                self.ward.check_all(nr);
                continue;
            }
            if surveyor.orders.is_none() {
                match survey::start(nr, surveyor.site.docroot.clone(), &self.tell) {
                    Ok(orders) => surveyor.orders = Some(orders),
                    // The next refresh tries again.
                    Err(e) => log::error!("docroots: pthread_create: {e}"),
                }
            }
            if let Some(orders) = &surveyor.orders {
                // The thread lives as long as we can speak to it.
                let _ = orders.send(());
                surveyor.busy = true;
            }
        }
    }

    /// Waits for news, and takes all there are.
    fn hear(&mut self, wait: Duration) {
        let mut next = self.news.recv_timeout(wait).ok();
        while let Some(news) = next {
            match news {
                News::Wake => {}
                News::Docroot(nr, found) => self.hear_docroot(nr, found),
                News::Device(id, finding) => self.ward.hear(id, finding),
                News::Report(report) => self.gauge.hear(&report, &self.ward, &self.office.board),
            }
            next = self.news.try_recv().ok();
        }
    }

    fn hear_docroot(&mut self, nr: usize, found: io::Result<Vec<Found>>) {
        let surveyor = &mut self.surveyors[nr];
        (surveyor.busy, surveyor.seen) = (false, true);
        let complaint = match found {
            Ok(found) => {
                self.ward.admit(nr, found);
                None
            }
            Err(e) => {
                self.ward.check_all(nr);
                Some(e.to_string())
            }
        };
        if let Some(why) = complaint
            .as_ref()
            .filter(|_| complaint != surveyor.complaint)
        {
            let docroot = surveyor.site.docroot.display();
            log::error!("docroot {docroot} is not listed: {why}; new devices are not seen");
        }
        surveyor.complaint = complaint;
    }
}
