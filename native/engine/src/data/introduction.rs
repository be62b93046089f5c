//! How a workload introduces itself to the other side: the text of its `baggage`, made once and not for every connection.
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use trackbed_decide::Workload;
use trackbed_hbone::headers::Baggage;

/// Workloads of one node, several times over: they are replaced when they change. When full all are made again.
const MOST: usize = 1024;

/// By the workload as an object: it is held, so nothing else can take its place in memory.
#[derive(Debug, Default)]
pub(super) struct Introductions(RefCell<HashMap<*const Workload, Introduction>>);

type Introduction = (Arc<Workload>, Rc<str>);

impl Introductions {
    pub(super) fn of(&self, workload: &Arc<Workload>) -> Rc<str> {
        let mut known = self.0.borrow_mut();
        if let Some((_, text)) = known.get(&Arc::as_ptr(workload)) {
            return Rc::clone(text);
        }
        if known.len() >= MOST {
            known.clear();
        }
        let text: Rc<str> = baggage(workload).into();
        known.insert(Arc::as_ptr(workload), (Arc::clone(workload), Rc::clone(&text)));
        text
    }
}

/// What the mesh knows of a workload, for the other side's metrics.
fn baggage(workload: &Workload) -> String {
    Baggage {
        cluster: workload.cluster.to_string(),
        namespace: workload.namespace.to_string(),
        workload_type: workload.kind.to_owned(),
        workload_name: workload.workload_name.to_string(),
        service_name: workload.canonical_name.to_string(),
        service_version: workload.canonical_revision.to_string(),
        region: workload.region.to_string(),
        zone: workload.zone.to_string(),
    }
    .to_string()
}
