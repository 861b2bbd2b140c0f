//! What a run comes to: one verdict per invariant.

use serde::Serialize;

/// One invariant, and whether it held.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Verdict {
    pub(crate) invariant: String,
    pub(crate) held: bool,
    pub(crate) detail: String,
}

/// How many examples of a breach are told.
const EXAMPLES: usize = 3;

/// The verdicts of one scenario, in the order in which they were reached.
#[derive(Debug, Default)]
pub(super) struct Verdicts(Vec<Verdict>);

impl Verdicts {
    /// It holds, or it does not.
    pub(super) fn must(&mut self, invariant: &str, held: bool, detail: impl Into<String>) {
        self.0.push(Verdict { invariant: invariant.to_owned(), held, detail: detail.into() });
    }

    /// It holds where two things are equal.
    pub(super) fn same<T: PartialEq + std::fmt::Debug>(&mut self, invariant: &str, is: &T, should: &T) {
        let short = |of: &T| {
            let text = format!("{of:?}");
            if text.len() > 160 { text.chars().take(160).chain("…".chars()).collect() } else { text }
        };
        let detail =
            if is == should { short(is) } else { format!("is {}, should be {}", short(is), short(should)) };
        self.must(invariant, is == should, detail);
    }

    /// It holds where nobody breached it.
    pub(super) fn none(&mut self, invariant: &str, breaches: &[String], looked_at: usize) {
        let mut detail = format!("{looked_at} looked at");
        if !breaches.is_empty() {
            let examples = breaches.iter().take(EXAMPLES).cloned().collect::<Vec<_>>().join("; ");
            detail = format!("{} of {looked_at}: {examples}", breaches.len());
        }
        self.must(invariant, breaches.is_empty(), detail);
    }

    pub(super) fn into_vec(self) -> Vec<Verdict> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_verdict_can_fail() {
        let mut verdicts = Verdicts::default();
        verdicts.must("a", true, "");
        verdicts.same("b", &1, &1);
        verdicts.none("c", &[], 4);
        verdicts.same("d", &1, &2);
        verdicts.none("e", &["x".to_owned()], 4);
        let held: Vec<_> = verdicts.into_vec().iter().map(|verdict| verdict.held).collect();
        assert_eq!(held, [true, true, true, false, false]);
    }
}
