//! Which items are in a model: owners count what everybody likes, user hosts then leave out the rest before anything is trained.
use super::{Job, unexpected};
use crate::{
    Error, Progress, TrainRequest, TrainResponse,
    message::{Blob, Key},
    plan::{Admission, Counts},
    wire,
};

impl<P: FnMut(Progress) + Send> Job<'_, P> {
    /// Has user hosts leave out what is not admitted; gives what is left of `counts`.
    pub(super) async fn admit(&mut self, key: Key, counts: Counts) -> Result<Counts, Error> {
        let admission = self.plan.settings.admission;
        if admission == Admission::default() {
            return Ok(counts);
        }
        let (items, _) = self.linked(TrainRequest::Tally(key)).await?;
        let mut positives: Vec<u32> = Vec::new();
        for node in self.plan.hosts.item_nodes() {
            positives.extend(wire::numbers(&self.blob(node, key, Blob::Positives).await?));
        }
        let least = admission.least(positives)?;
        let mut counts = Counts::default();
        let request = TrainRequest::Admit { key, items, least };
        for (node, response) in self.all(&self.plan.hosts.user_nodes(), &request).await? {
            let TrainResponse::Loaded(host) = response else { return Err(unexpected(node)) };
            counts.add(host);
        }
        tracing::info!(job = self.plan.job, least, positives = counts.positives, "items are admitted");
        Ok(counts)
    }
}

impl Admission {
    /// The least positives of an item that is in the model, given those of all.
    fn least(self, mut positives: Vec<u32>) -> Result<u32, Error> {
        let most = positives.iter().max().copied().unwrap_or(0);
        let items_max = self.items_max.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
        let mut least = self.min_positives;
        if items_max < positives.len() {
            let (_, left_out, _) = positives.select_nth_unstable_by(items_max, |a, b| b.cmp(a));
            least = least.max(left_out.saturating_add(1));
        }
        if most >= least {
            return Ok(least);
        }
        let reason = format!(
            "no item is in the model: the most liked one has {most} positives, and min_positives and items_max ask for {least}"
        );
        Err(Error::Invalid(reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn as_many_items_are_admitted_as_there_may_be_and_none_before_one_that_is_liked_more(
            positives in prop::collection::vec(1u32..9, 1..40), min_positives in 1u32..9, items_max in 1u64..40,
        ) {
            let admission = Admission { min_positives, items_max: Some(items_max) };
            let in_model = |least: u32| positives.iter().filter(|count| **count >= least).count() as u64;
            match admission.least(positives.clone()) {
                Ok(least) => {
                    prop_assert!((1..=items_max).contains(&in_model(least)) && least >= min_positives);
                    // With one positive less it would be too many, or too little liked.
                    prop_assert!(least == min_positives || in_model(least - 1) > items_max);
                }
                Err(error) => {
                    let ties = positives.iter().max().map_or(0, |most| in_model(*most));
                    prop_assert!(in_model(min_positives) == 0 || ties > items_max, "{error}");
                }
            }
        }
    }

    #[test]
    fn without_a_bound_the_least_is_what_was_asked_for() {
        let admission = Admission { min_positives: 3, items_max: None };
        assert_eq!(admission.least(vec![1, 5, 3]).unwrap(), 3);
        assert!(admission.least(vec![2]).unwrap_err().to_string().contains("has 2 positives"));
    }
}
