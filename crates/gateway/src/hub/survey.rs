//! Which of a worker's rooms stand out: by members, by traffic, by drops. Found by walking over all of them in small
//! steps, so that a delivery pays no more than an addition for it.

use std::{
    collections::{BTreeSet, HashMap},
    time::Instant,
};

use roomcast_protocol::RoomName;

use super::Hub;

/// Rooms looked at in one step: tens of microseconds.
const STEP: usize = 1_024;
/// Rooms told by each worker for each reason: more than a node tells, because their sums may rank otherwise.
const TOLD: usize = 32;

/// What a room has seen.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tally {
    /// Pushes for its members.
    pub(super) pushes: u64,
    /// Fleeting frames that gave way for its members.
    pub(super) drops: u64,
    /// Both at the last survey.
    surveyed: (u64, u64),
}

/// A room that stands out.
#[derive(Debug, Clone, PartialEq)]
pub struct RoomFigures {
    /// Which.
    pub room: RoomName,
    /// Seats taken.
    pub members: u64,
    /// Pushes per second.
    pub rate: f64,
    /// Fleeting frames dropped per second.
    pub drops: f64,
}

/// One walk over all rooms.
#[derive(Debug)]
pub struct Survey {
    place: usize,
    seconds: f64,
    tops: [Top; 3],
}

impl Survey {
    /// A walk that has not begun; the last one was so long ago.
    pub fn new(last: Instant, now: Instant) -> Self {
        let seconds = now.saturating_duration_since(last).as_secs_f64().max(0.001);
        Self { place: 0, seconds, tops: Default::default() }
    }

    /// What was found.
    pub fn found(self) -> Vec<RoomFigures> {
        let mut seen = HashMap::new();
        for figures in self.tops.into_iter().flat_map(|top| top.rooms) {
            seen.entry(figures.room.clone()).or_insert(figures);
        }
        seen.into_values().collect()
    }

    fn see(&mut self, figures: &RoomFigures) {
        #[allow(clippy::cast_precision_loss, reason = "members stay far below 2^53")]
        let by = [figures.members as f64, figures.rate, figures.drops];
        for (top, by) in self.tops.iter_mut().zip(by) {
            top.see(by, figures);
        }
    }
}

/// The rooms with the largest figures of one kind.
#[derive(Debug, Default)]
struct Top {
    rooms: Vec<RoomFigures>,
    by: Vec<f64>,
}

impl Top {
    fn see(&mut self, by: f64, figures: &RoomFigures) {
        if by <= 0.0 {
            return;
        }
        if self.by.len() < TOLD {
            self.by.push(by);
            self.rooms.push(figures.clone());
            return;
        }
        let least = self.by.iter().enumerate().min_by(|(_, a), (_, b)| a.total_cmp(b));
        if let Some((at, &least)) = least
            && least < by
        {
            self.by[at] = by;
            self.rooms[at] = figures.clone();
        }
    }
}

impl Hub {
    /// Looks at some more rooms. False when all were seen.
    pub fn survey_step(&mut self, survey: &mut Survey) -> bool {
        let (from, to) = (survey.place, survey.place + STEP);
        let seconds = survey.seconds;
        for room in self.table.some_mut(from..to) {
            let members = room.len() as u64;
            let Tally { pushes, drops, surveyed } = &mut room.state.tally;
            let before = std::mem::replace(surveyed, (*pushes, *drops));
            #[allow(clippy::cast_precision_loss, reason = "what comes within seconds stays far below 2^53")]
            let per_second = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
            let (rate, drops) = (per_second(*pushes, before.0), per_second(*drops, before.1));
            if members > 0 || rate > 0.0 {
                survey.see(&RoomFigures { room: room.name.clone(), members, rate, drops });
            }
        }
        survey.place = to;
        to < self.table.places()
    }
}

/// Joins what several have told of the same rooms, and keeps so many for each reason. Members and drops add up; every
/// worker and node with members hears each push once, so the traffic of a room is what the busiest of them saw.
pub fn top(told: impl IntoIterator<Item = RoomFigures>, keep: usize) -> Vec<RoomFigures> {
    let mut rooms: HashMap<RoomName, RoomFigures> = HashMap::new();
    for figures in told {
        let known = rooms.entry(figures.room.clone()).or_insert_with(|| RoomFigures {
            room: figures.room.clone(),
            members: 0,
            rate: 0.0,
            drops: 0.0,
        });
        known.members = known.members.saturating_add(figures.members);
        known.rate = known.rate.max(figures.rate);
        known.drops += figures.drops;
    }
    let mut all: Vec<RoomFigures> = rooms.into_values().collect();
    let mut kept = BTreeSet::new();
    let by: [fn(&RoomFigures) -> f64; 3] = [
        #[allow(clippy::cast_precision_loss, reason = "members stay far below 2^53")]
        |of| of.members as f64,
        |of| of.rate,
        |of| of.drops,
    ];
    for by in by {
        // By name where they are alike, so that a list does not tremble.
        all.sort_by(|a, b| by(b).total_cmp(&by(a)).then_with(|| a.room.cmp(&b.room)));
        kept.extend(all.iter().filter(|of| by(of) > 0.0).take(keep).map(|of| of.room.clone()));
    }
    all.retain(|of| kept.contains(&of.room));
    all.sort_by(|a, b| b.members.cmp(&a.members).then_with(|| a.room.cmp(&b.room)));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(name: &str, members: u64, rate: f64, drops: f64) -> RoomFigures {
        RoomFigures { room: RoomName::parse(name).unwrap(), members, rate, drops }
    }

    #[test]
    fn a_room_on_two_workers_is_one_room_and_its_traffic_is_not_doubled() {
        let told = [figures("event:a", 3, 10.0, 1.0), figures("event:a", 4, 9.0, 2.0)];
        assert_eq!(top(told, 5), [figures("event:a", 7, 10.0, 3.0)]);
    }

    #[test]
    fn the_first_of_each_reason_are_kept_and_no_others() {
        let told = [
            figures("event:big", 1_000, 0.0, 0.0),
            figures("event:busy", 2, 500.0, 0.0),
            figures("event:lossy", 1, 0.0, 7.0),
            figures("event:small", 1, 0.1, 0.0),
        ];
        let names: Vec<_> = top(told, 1).into_iter().map(|of| of.room.to_string()).collect();
        assert_eq!(names, ["event:big", "event:busy", "event:lossy"]);
    }

    #[test]
    fn many_rooms_leave_a_survey_of_bounded_size_with_the_largest_in_it() {
        let start = Instant::now();
        let mut survey = Survey::new(start, start + std::time::Duration::from_secs(2));
        for n in 0..10_000_u64 {
            survey.see(&figures(&format!("event:r{n}"), n % 7_919, 0.0, 0.0));
        }
        let found = survey.found();
        assert_eq!(found.len(), TOLD);
        assert!(found.iter().all(|of| of.members >= 7_918 - TOLD as u64), "{found:?}");
    }
}
