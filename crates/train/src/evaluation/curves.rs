//! The curves that people look at: what every threshold would give.

/// Points of the ROC curve from (0, 0) to (1, 1), as (share of normals, share of anomalies) at or above a falling
/// threshold. Nothing unless there are both.
pub fn roc_curve(scores: &[f64], is_anomalous: &[bool]) -> Vec<(f64, f64)> {
    let counts = counts(scores, is_anomalous);
    let Some(&(normals, anomalies)) = counts.last().filter(|&&(normals, anomalies)| normals.min(anomalies) > 0) else {
        return Vec::new();
    };
    let point = |&(above, found): &(u64, u64)| (above as f64 / normals as f64, found as f64 / anomalies as f64);
    std::iter::once((0.0, 0.0)).chain(counts.iter().map(point)).collect()
}

/// Steps of the precision-recall curve, as (recall, precision) at a falling threshold: a step holds its precision from
/// the recall before it. Nothing unless there are anomalies.
pub fn precision_recall_curve(scores: &[f64], is_anomalous: &[bool]) -> Vec<(f64, f64)> {
    let counts = counts(scores, is_anomalous);
    let Some(&(_, anomalies)) = counts.last().filter(|&&(_, anomalies)| anomalies > 0) else { return Vec::new() };
    let point = |&(above, found): &(u64, u64)| (found as f64 / anomalies as f64, found as f64 / (above + found) as f64);
    counts.iter().map(point).collect()
}

/// Normals and anomalies at or above each distinct score, highest first.
fn counts(scores: &[f64], is_anomalous: &[bool]) -> Vec<(u64, u64)> {
    let mut pairs: Vec<(f64, bool)> = scores.iter().copied().zip(is_anomalous.iter().copied()).collect();
    pairs.sort_by(|one, other| other.0.total_cmp(&one.0));
    let mut above = (0, 0);
    let count = |tie: &[(f64, bool)]| {
        let anomalies = tie.iter().filter(|(_, truth)| *truth).count() as u64;
        above = (above.0 + tie.len() as u64 - anomalies, above.1 + anomalies);
        above
    };
    pairs.chunk_by(|one, other| one.0 == other.0).map(count).collect()
}
