//! Recovering the stopped stores of a cluster.

use multiraft::StoreId;
use multiraft::recovery::{
    AppliedPlan, ApplyOptions, Keep, Plan, PlanOptions, RecoveryError, StoreSurvey, Verdict, make_plan,
};
use multiraft::{RegionId, StartError};

use super::{Cluster, Map};

/// Off the runtime: it blocks.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

impl Cluster {
    pub async fn try_survey(&self, store: u64) -> Result<StoreSurvey, RecoveryError> {
        let recovery = self.builder(store).state_machine(Map).recovery().unwrap();
        blocking(|| recovery.survey()).await
    }

    pub async fn survey(&self, store: u64) -> StoreSurvey {
        let survey = self.try_survey(store).await.unwrap();
        assert_eq!(StoreSurvey::decode(&survey.encode()).unwrap(), survey);
        survey
    }

    /// Makes a plan from the survivors.
    pub async fn plan(&self, survivors: &[u64], dead: &[u64]) -> Plan {
        let mut surveys = Vec::new();
        for store in survivors {
            surveys.push(self.survey(*store).await);
        }
        let dead: Vec<StoreId> = dead.iter().copied().map(StoreId).collect();
        let mut options = PlanOptions::default();
        options.note = "the test".to_owned();
        let plan = make_plan(&surveys, &dead, &options).unwrap();
        assert_eq!(Plan::decode(&plan.encode()).unwrap(), plan);
        plan
    }

    pub async fn try_apply(&self, store: u64, plan: &Plan) -> Result<AppliedPlan, RecoveryError> {
        let (plan, options) = (plan.clone(), ApplyOptions::confirm(plan.id()));
        let recovery = self.builder(store).state_machine(Map).recovery().unwrap();
        blocking(move || recovery.apply(&plan, &options)).await
    }

    pub async fn apply(&self, store: u64, plan: &Plan) -> AppliedPlan {
        self.try_apply(store, plan).await.unwrap()
    }

    pub async fn try_start(&self, store: u64) -> Result<multiraft::Engine, StartError> {
        self.builder(store).state_machine(Map).start().await
    }
}

/// The part of a region of which a replica is kept.
pub fn kept(plan: &Plan, region: RegionId) -> &Keep {
    match &plan.region(region).unwrap().verdict {
        Verdict::Keep(keep) => keep,
        other => panic!("region {region} is not kept: {other:?}"),
    }
}
