//! Models of some of the items.
use crate::{
    fixture::{Cluster, Data, PLANS, blend_plan, hosts, kept},
    hashes, measured,
};
use docent_train::{Error, Hosts, JobPlan, JobSettings, Outcome, plan::Admission};
use std::sync::Arc;

fn admitting(plan: JobPlan, min_positives: u32, items_max: Option<u64>) -> JobPlan {
    let admission = Admission { min_positives, items_max };
    JobPlan { settings: JobSettings { admission, ..plan.settings }, ..plan }
}

async fn run(data: &Arc<Data>, plan: JobPlan) -> Outcome {
    let nodes = plan.hosts.nodes().len() as u64;
    Cluster::healthy(nodes, data).run(plan).await.unwrap()
}

#[tokio::test]
async fn a_model_of_liked_items_is_that_of_data_without_the_others() {
    let data = Data::planted(400, 120);
    // As few items as leave everybody one.
    let serves_all = |(_, less): &(u32, Arc<Data>)| less.users.len() == data.users.len();
    let (least, less) = (1..).map(|least| (least, data.admitted(least))).take_while(serves_all).last().unwrap();
    for plan in PLANS {
        let whole = run(&data, plan(Hosts::single(1))).await;
        let expected = run(&less, plan(Hosts::single(1))).await;
        assert!(expected.counts.items < whole.counts.items, "{:?}", expected.counts);
        for (nodes, deal) in [(1, 0), (3, 0), (4, 1)] {
            let outcome = run(&data, admitting(plan(hosts(nodes, deal)), least, None)).await;
            assert_eq!(hashes(&outcome), hashes(&expected), "{nodes} nodes");
            assert_eq!((&outcome.global, outcome.counts), (&expected.global, expected.counts));
            // As many items as those are, by their number.
            let bounded = admitting(plan(hosts(nodes, deal)), 1, Some(expected.counts.items));
            assert_eq!(hashes(&run(&data, bounded).await), hashes(&expected), "{nodes} nodes");
        }
    }
}

#[tokio::test]
async fn what_is_left_out_counts_as_missed_and_users_of_nothing_else_are_no_error() {
    let data = Data::planted(200, 120);
    for plan in [PLANS.to_vec(), vec![blend_plan]].concat() {
        let plain = measured(plan(Hosts::single(1)), true);
        let whole = run(&data, plain.clone()).await;
        let few = run(&data, admitting(plain, 1, Some(12))).await;
        assert!((1..=12).contains(&few.counts.items), "{:?}", few.counts);
        assert_eq!(few.counts.users, whole.counts.users);
        let [whole, few] = [&whole.reports[1].means, &few.reports[1].means];
        assert!(few.users <= whole.users && few.recall < whole.recall / 2.0, "{whole:?} {few:?}");
        // The same after an attempt, and on other hosts.
        let other = admitting(measured(kept(plan(hosts(3, 1)), 3), true), 1, Some(12));
        let again = Cluster::healthy(3, &data).doubling().run(other).await.unwrap();
        assert_eq!(again.reports[1].means, *few);
    }
}

#[tokio::test]
async fn a_model_without_any_item_is_refused_with_what_would_be_one() {
    let data = Data::planted(60, 60);
    let failed = Cluster::healthy(2, &data).run(admitting(PLANS[0](hosts(2, 0)), 1_000, None)).await;
    let Err(Error::Invalid(reason)) = failed else { panic!("{failed:?}") };
    assert!(reason.contains("positives, and min_positives"), "{reason}");
}
