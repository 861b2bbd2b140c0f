//! One room's uploads and documents in this process.

use std::collections::HashMap;

use super::room::Step;
use crate::{Cap, Command, CounterError, Current, Doc, Outcome, Refusal, UploadState, body};

#[derive(Default)]
pub(super) struct Uploads(HashMap<String, Upload>);

struct Upload {
    state: UploadState,
    progress: u32,
    owner: String,
}

impl Uploads {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn advance(
        &mut self,
        step: &Step<'_>,
        command: &Command,
        (target, to, progress): (&str, UploadState, u32),
    ) -> Result<Outcome, CounterError> {
        use UploadState::{Complete, Failed, Progress, Started};
        let user = &command.user;
        match self.0.get(target) {
            None if to != Started => return Err(CounterError::NotFound),
            None if self.0.len() >= step.limits.uploads_per_room as usize => {
                return Err(CounterError::TooMany(Cap::Uploads));
            }
            Some(upload) if upload.owner != *user => {
                return Err(CounterError::Forbidden(Refusal::NotOwner));
            }
            Some(upload) => match (upload.state, to) {
                (Complete | Failed, to) if upload.state != to => {
                    return Err(CounterError::Conflict(Current::Upload(upload.state)));
                }
                (Complete | Failed, _) | (_, Started) => {
                    return Ok(Outcome::Upload { state: upload.state, progress: upload.progress });
                }
                (Started | Progress, Progress | Complete | Failed) => {}
            },
            None => {}
        }
        let before = self.0.get(target).map_or(0, |upload| upload.progress);
        let progress = if to == Complete { 100 } else { before.max(progress) };
        match to {
            Progress => step.sink.signal(step.room, &body::upload_signal(user, target, progress)?),
            Complete => {
                step.event(command, &body::upload_event(user, target, step.now)?);
            }
            Started | Failed => {}
        }
        self.0.insert(target.to_owned(), Upload { state: to, progress, owner: user.clone() });
        Ok(Outcome::Upload { state: to, progress })
    }
}

#[derive(Default)]
pub(super) struct Docs(HashMap<String, Doc>);

impl Docs {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn get(&self, doc: &str) -> Option<Doc> {
        self.0.get(doc).cloned()
    }

    pub(super) fn put(
        &mut self,
        step: &Step<'_>,
        command: &Command,
        (doc, value, version): (&str, &str, u64),
    ) -> Result<Outcome, CounterError> {
        let kept = self.0.get(doc);
        if kept.map_or(0, |kept| kept.version) != version {
            return Err(CounterError::Conflict(Current::Doc(kept.cloned())));
        }
        if kept.is_none() && self.0.len() >= step.limits.docs_per_room as usize {
            return Err(CounterError::TooMany(Cap::Docs));
        }
        let version = version + 1;
        step.event(command, &body::doc_event(&command.user, doc, version)?);
        self.0.insert(doc.to_owned(), Doc { value: value.to_owned(), version });
        Ok(Outcome::Put { version })
    }
}
