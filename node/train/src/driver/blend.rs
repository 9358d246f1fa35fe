//! A blend: its models one after the other, weights on what was held out, then one version of all.
//!
//! While a run is under way hosts keep what earlier ones left for the blend (`worker/blend.rs`): what ranks, and parts.
use super::{Job, Run, Trained};
use crate::{
    Error, Evaluate, Outcome, Progress, TrainRequest,
    part::{BlendGlobal, Global},
    plan::{Algorithm, Phase},
};
use docent_model::{
    blend::{
        Bests, Blend, Channel, Scale, Weights,
        search::{Gain, Search},
    },
    graph,
};

/// Users that weights are learned on, at most: twice as many would halve no standard error.
const USERS_MAX: u32 = 65_536;
/// Unit of iALS' scores: the preference below which an item is not thought of at all.
const PREFERENCE: f32 = 0.001;

impl<P: FnMut(Progress) + Send> Job<'_, P> {
    /// Trains, weighs, measures and publishes a blend of a graph filter and the job's model.
    pub(super) async fn blend(&mut self, filter: graph::Settings) -> Result<Outcome, Error> {
        let evaluate = self.plan.settings.evaluate.clone();
        let evaluate = evaluate.ok_or_else(|| Error::Invalid("a blend needs something held out".into()))?;
        let filter = self.model(0, Algorithm::Graph(filter), &evaluate, true).await?;
        let other = self.model(1, self.plan.settings.algorithm.clone(), &evaluate, true).await?;
        let blend = self.weigh_models(&other.0).await?;
        self.judge(&other.0, &blend, &evaluate).await?;
        let (filter, other) = if evaluate.retrain {
            let filter = self.model(2, filter.0.algorithm, &evaluate, false).await?;
            (filter, self.model(3, other.0.algorithm, &evaluate, false).await?)
        } else {
            (filter, other)
        };
        let parts = self.publish(TrainRequest::Compose(other.0.linked.key)).await?;
        let (Some(Global::Graph(graph)), Some(with)) = (filter.1, other.1) else {
            return Err(Error::Internal("a blend without its models".into()));
        };
        let global = Global::Blend(Box::new(BlendGlobal { blend, graph, with }));
        self.outcome(parts, &global, &other.0)
    }

    /// Trains one of the models and has hosts keep what the blend needs of it; with its global part if it is to be published.
    async fn model(
        &mut self,
        run: u8,
        algorithm: Algorithm,
        evaluate: &Evaluate,
        is_measuring: bool,
    ) -> Result<(Trained, Option<Global>), Error> {
        let trained = self.train(Run::new(self.plan, run, algorithm, is_measuring), None).await?;
        let (key, items) = (trained.linked.key, trained.linked.items.clone());
        if is_measuring {
            self.solve_readers(&trained).await?;
            self.exchange(&self.plan.hosts.user_nodes(), &TrainRequest::Rank { key, items }).await?;
        }
        if is_measuring && evaluate.retrain {
            return Ok((trained, None));
        }
        self.publish(TrainRequest::Shelve(key)).await?;
        let global = self.global(&trained).await?;
        Ok((trained, Some(global)))
    }

    /// Finds the weights of the models that hosts rank by; `trained` is the last of them.
    async fn weigh_models(&mut self, trained: &Trained) -> Result<Blend, Error> {
        let (key, items, hosts) = (trained.linked.key, trained.linked.items.clone(), self.plan.hosts.user_nodes());
        let sums = self.sums(&hosts, &TrainRequest::Candidates { key, items, users_max: USERS_MAX }).await?;
        let bests = sums.try_into().map_err(|_| Error::Internal("best scores of another length".into()))?;
        let channel = |scale, unit, is_sum| Channel { scale, unit, is_sum, weights: Weights::default() };
        let popularity = channel(Scale::Logarithm, 1.0, false);
        let graph = channel(Scale::Logarithm, Bests::from_array(bests).unit(), true);
        let with = match &trained.algorithm {
            Algorithm::Softmax(settings) => channel(Scale::Linear, settings.temperature, false),
            Algorithm::Tower(settings) => channel(Scale::Linear, settings.base.temperature, false),
            Algorithm::Ials(_) | Algorithm::Graph(_) => channel(Scale::Logarithm, PREFERENCE, false),
        };
        let mut blend = Blend { channels: vec![graph, with, popularity] };
        let mut search = Search::new(blend.channels.len());
        loop {
            blend.channels.iter_mut().zip(search.weights()).for_each(|(channel, weights)| channel.weights = *weights);
            let proposals = search.proposals();
            if proposals.is_empty() {
                self.report(Phase::Weigh, trained.algorithm.epochs(), None);
                return Ok(blend);
            }
            let sums = self.sums(&hosts, &TrainRequest::Gains { key, blend: blend.clone(), proposals }).await?;
            let gain = |[users, sum, squares]: &[f64; 3]| Gain { users: *users, sum: *sum, squares: *squares };
            let gains: Vec<Gain> = sums.as_chunks().0.iter().map(gain).collect();
            search.advance(&gains)?;
        }
    }

    /// Measures the blend on what was held out.
    async fn judge(&mut self, trained: &Trained, blend: &Blend, evaluate: &Evaluate) -> Result<(), Error> {
        let request = TrainRequest::Judge {
            key: trained.linked.key,
            items: trained.linked.items.clone(),
            users: trained.linked.counts.users,
            cutoffs: evaluate.cutoffs.clone(),
            users_max: evaluate.users_max,
            blend: blend.clone(),
        };
        self.reports = self.measure(trained, &request, &evaluate.cutoffs).await?;
        Ok(())
    }
}
