//! Blends: weights from held-out training items, then a measurement.
use crate::{Data, Failure, Given, K, Lists, models::Model};
use docent_model::{
    Error,
    blend::{
        Blend, Weights,
        search::{Example, Gain, Search},
    },
    parallel, tree,
};

/// Leaves that gains are added up over, as a job does.
const LEAVES: u16 = 64;

/// What a user's blend chooses from.
#[derive(Clone, Default)]
struct Candidates {
    items: Vec<u32>,
    /// `[items][channels]`.
    scores: Vec<f32>,
}

/// Trained models of one split.
struct Trained {
    data: Data,
    models: Vec<Model>,
}

/// Measures models and blends. With `on=test` the weights are found on held-out items of the training part all the same.
pub(crate) fn run(given: &Given) -> Result<(), Failure> {
    let blends: String = given.one("blends", "graph+popularity,graph+softmax:128+popularity")?;
    let blends: Vec<Vec<&str>> = blends.split(',').map(|blend| blend.split('+').collect()).collect();
    let held_out = Trained::new(given, "held-out", &blends)?;
    let found = blends.iter().map(|names| held_out.found(names)).collect::<Result<Vec<Blend>, _>>()?;
    if given.one::<String>("on", "held-out")? == "test" {
        let test = Trained::new(given, "test", &blends)?;
        for (names, blend) in blends.iter().zip(found) {
            let lists = test.ranked(names, |_| &blend)?;
            println!("{} on test: {}", names.join("+"), test.data.measure(&lists));
        }
    }
    Ok(())
}

impl Trained {
    fn new(given: &Given, on: &str, blends: &[Vec<&str>]) -> Result<Trained, Failure> {
        let data = Data::new(given, on)?;
        let mut models: Vec<Model> = Vec::new();
        let also: String = given.one("also", "")?;
        let is_last = on == given.one::<String>("on", "held-out")?;
        let also = also.split(',').filter(|name| is_last && !name.is_empty());
        for name in blends.iter().flatten().copied().chain(also) {
            if models.iter().all(|model| model.name != name) {
                let model = Model::new(given, &data, name, given.one("depth", "100")?)?;
                if model.lists.iter().any(|list| !list.is_empty()) {
                    println!("{name} on {on}, unit {}: {}", model.channel.unit, data.measure(&model.lists));
                }
                models.push(model);
            }
        }
        Ok(Trained { data, models })
    }

    /// Finds the weights of these models and says what each half of the users gets by the weights of the other half.
    fn found(&self, names: &[&str]) -> Result<Blend, Failure> {
        let blend = self.blend(names);
        let candidates = self.candidates(names)?;
        let of = |keep: &dyn Fn(usize) -> bool| -> Result<Blend, Failure> {
            let examples = self.examples(&blend, &candidates, keep)?;
            Ok(with(&blend, search(&examples, blend.channels.len(), self.data.threads)?.weights()))
        };
        let halves = [of(&|user| user % 2 == 1)?, of(&|user| user % 2 == 0)?];
        let lists = self.ranked(names, |user| &halves[user % 2])?;
        println!("{} crosswise: {}", names.join("+"), self.data.measure(&lists));
        let found = of(&|_| true)?;
        for (at, name) in names.iter().enumerate() {
            let [left, right] = halves.each_ref().map(|blend| blend.channels[at].weights);
            println!("    {name}: {}, by halves {}; {}", told(found.channels[at].weights), told(left), told(right));
        }
        let alone = Search::new(names.len()).weights().to_vec();
        let all: Vec<Weights> = found.channels.iter().map(|channel| channel.weights).collect();
        let gain = gains(&self.examples(&blend, &candidates, &|_| true)?, &alone, &[all], self.data.threads)?;
        println!("    ahead of {} alone: {:.5}, standard error {:.5}", names[0], gain[0].mean(), gain[0].error());
        Ok(found)
    }

    fn of(&self, names: &[&str]) -> Vec<&Model> {
        names.iter().filter_map(|name| self.models.iter().find(|model| model.name == *name)).collect()
    }

    fn blend(&self, names: &[&str]) -> Blend {
        Blend { channels: self.of(names).iter().map(|model| model.channel).collect() }
    }

    /// The best of every model, with all models' scores.
    fn candidates(&self, names: &[&str]) -> Result<Vec<Candidates>, Failure> {
        let models = self.of(names);
        let of_user = |scorers: &mut Vec<_>, user: usize| -> Result<Candidates, Error> {
            let mut items: Vec<u32> = models.iter().flat_map(|model| &model.lists[user]).copied().collect();
            items.sort_unstable();
            items.dedup();
            let mut scores = vec![0.0; items.len() * models.len()];
            for (at, scorer) in scorers.iter_mut().enumerate() {
                let scorer: &mut crate::models::ScoresOf<'_> = scorer;
                let own = scorer.of(&self.data, user, &items)?;
                scores.iter_mut().skip(at).step_by(models.len()).zip(own).for_each(|(to, score)| *to = score);
            }
            Ok(Candidates { items, scores })
        };
        let mut all = vec![Ok(Candidates::default()); self.data.train.len()];
        parallel::for_each(
            self.data.threads,
            all.iter_mut().enumerate().collect(),
            || models.iter().map(|model| model.scores_of(&self.data)).collect::<Vec<_>>(),
            |scorers, (user, out)| *out = of_user(scorers, user),
        );
        Ok(all.into_iter().collect::<Result<_, _>>()?)
    }

    /// By leaf, of the users that `keep` holds for.
    fn examples(
        &self,
        blend: &Blend,
        candidates: &[Candidates],
        keep: &dyn Fn(usize) -> bool,
    ) -> Result<Vec<Vec<Example>>, Failure> {
        let mut leaves = vec![Vec::new(); usize::from(LEAVES)];
        for (user, Candidates { items, scores }) in candidates.iter().enumerate().filter(|(user, _)| keep(*user)) {
            let truth = self.data.truth.get(user).map_or(&[][..], |items| &items[..]);
            let hits = items.iter().map(|item| truth.binary_search(item).is_ok()).collect();
            let entries = self.data.train[user].len();
            leaves[user % usize::from(LEAVES)].push(Example::new(blend, entries, scores, hits, truth.len())?);
        }
        Ok(leaves)
    }

    fn ranked<'a>(&self, names: &[&str], blend: impl Fn(usize) -> &'a Blend) -> Result<Lists, Failure> {
        let of_user = |(user, Candidates { items, scores }): (usize, &Candidates)| {
            let blend = blend(user);
            let scores = scores.chunks_exact(blend.channels.len());
            let top = blend.for_user(self.data.train[user].len()).top(items.iter().copied().zip(scores), K)?;
            Ok(top.into_iter().map(|(item, _)| item).collect())
        };
        self.candidates(names)?.iter().enumerate().map(of_user).collect()
    }
}

fn told(Weights { base, slope }: Weights) -> String {
    format!("{base} {slope:+} ln(h / 20)")
}

fn with(blend: &Blend, weights: &[Weights]) -> Blend {
    let mut blend = blend.clone();
    blend.channels.iter_mut().zip(weights).for_each(|(channel, weights)| channel.weights = *weights);
    blend
}

fn search(leaves: &[Vec<Example>], channels: usize, threads: usize) -> Result<Search, Failure> {
    let mut search = Search::new(channels);
    loop {
        let proposals = search.proposals();
        if proposals.is_empty() {
            return Ok(search);
        }
        search.advance(&gains(leaves, search.weights(), &proposals, threads)?)?;
    }
}

fn gains(
    leaves: &[Vec<Example>],
    present: &[Weights],
    proposals: &[Vec<Weights>],
    threads: usize,
) -> Result<Vec<Gain>, Failure> {
    let mut sums = vec![vec![Gain::default(); proposals.len()]; leaves.len()];
    parallel::for_each(
        threads,
        sums.iter_mut().zip(leaves).collect(),
        || (),
        |(), (sums, examples): (&mut Vec<Gain>, &Vec<Example>)| {
            for example in examples {
                tree::Sum::add(sums, example.gains(present, proposals, K));
            }
        },
    );
    Ok(tree::finish(LEAVES, tree::leaves(0, sums))?)
}
