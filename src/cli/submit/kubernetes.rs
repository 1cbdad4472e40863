//! An Indexed Job for Kubernetes, and the merge.

use serde_json::{Value, json};

use super::{Kubernetes, Plan};

/// The environment variable that holds a pod's index, which Kubernetes puts into words.
const INDEX: &str = "JOB_COMPLETION_INDEX";

/// Two Jobs in one file. Kubernetes has no Job that waits for another: the second one fails while shards are missing or
/// unfinished, which the merge notices before it reads anything, and is started again, at ever longer intervals up to five
/// minutes. Words are JSON, which is YAML as well.
pub fn job(plan: &Plan, args: &Kubernetes) -> String {
    let name = label(&plan.name);
    let mut out = format!("# {}\n# Send it with: kubectl apply -f FILE\n", plan.note);
    let mut shard = plan.shard.iter().map(|w| literal(w)).collect::<Vec<_>>();
    let index = format!("$({INDEX})");
    let (part, file) = (format!("{index}/{}", plan.shards), format!("{}/{index}", literal(&plan.folder)));
    shard.extend(["--shard".to_owned(), part, "-o".to_owned(), file]);
    let seconds = 60 * u64::from(plan.minutes);
    let indexed = json!({
        "completions": plan.shards, "parallelism": plan.shards, "completionMode": "Indexed",
        "backoffLimitPerIndex": 6, "maxFailedIndexes": 0,
    });
    let at = |name: &str| match &args.namespace {
        Some(namespace) => json!({"name": name, "namespace": namespace}),
        None => json!({"name": name}),
    };
    out.push_str(&document(&at(&name), indexed, pod(plan, args, &[shard], plan.megabytes, "Never", Some(seconds))));
    let steps: Vec<Vec<String>> = plan.after.iter().map(|s| s.words.iter().map(|w| literal(w)).collect()).collect();
    let rest: u64 = plan.after.iter().map(|s| 60 * u64::from(s.minutes)).sum();
    let waits =
        json!({"backoffLimit": 100_000, "activeDeadlineSeconds": (seconds + rest).saturating_mul(8).max(86_400)});
    let most = plan.after.iter().map(|s| s.megabytes).max().unwrap_or(plan.megabytes);
    out.push_str("---\n");
    out.push_str(&document(&at(&format!("{name}-merge")), waits, pod(plan, args, &steps, most, "OnFailure", None)));
    out
}

/// A word that Kubernetes leaves as it is: `$(NAME)` would be a variable, and `$$` is one dollar sign.
fn literal(word: &str) -> String {
    word.replace('$', "$$")
}

/// A name as Kubernetes takes it: small letters, digits and hyphens, at most 50 so that more can follow.
fn label(name: &str) -> String {
    let plain: String = name.to_lowercase().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let short: String = plain.trim_matches('-').chars().take(50).collect();
    let short = short.trim_matches('-').to_owned();
    if short.is_empty() { "circuitscope".to_owned() } else { short }
}

/// What runs: all steps but the last before it.
fn pod(
    plan: &Plan,
    args: &Kubernetes,
    steps: &[Vec<String>],
    megabytes: u64,
    restart: &str,
    seconds: Option<u64>,
) -> Value {
    let memory = format!("{megabytes}Mi");
    let container = |(i, words): (usize, &Vec<String>)| {
        json!({
            "name": format!("step-{}", i + 1), "image": args.image, "command": words, "workingDir": args.mount,
            "env": [{"name": "RAYON_NUM_THREADS", "value": plan.cpus.to_string()}],
            "resources": {
                "requests": {"cpu": plan.cpus.to_string(), "memory": memory}, "limits": {"memory": memory},
            },
            "volumeMounts": [{"name": "work", "mountPath": args.mount}],
        })
    };
    let mut all: Vec<Value> = steps.iter().enumerate().map(container).collect();
    let last = all.pop().unwrap_or_default();
    let mut spec = json!({
        "restartPolicy": restart, "containers": [last],
        "volumes": [{"name": "work", "persistentVolumeClaim": {"claimName": args.claim}}],
    });
    if !all.is_empty() {
        spec["initContainers"] = json!(all);
    }
    if let Some(seconds) = seconds {
        spec["activeDeadlineSeconds"] = json!(seconds);
        // What is stopped writes what it has.
        spec["terminationGracePeriodSeconds"] = json!(60);
    }
    spec
}

fn document(metadata: &Value, how: Value, pod: Value) -> String {
    let mut spec = how;
    spec["template"] = json!({"spec": pod});
    let job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec});
    indented(&job, 0)
}

/// Fields a line each, as YAML; what is small or a list stays JSON.
fn indented(value: &Value, depth: usize) -> String {
    let pad = "  ".repeat(depth);
    let Some(fields) = value.as_object() else { return format!("{pad}{value}\n") };
    let mut out = String::new();
    for (name, value) in fields {
        match value {
            Value::Object(inner) if !inner.is_empty() => {
                out.push_str(&format!("{pad}{name}:\n{}", indented(value, depth + 1)));
            }
            Value::Array(list) if list.iter().any(Value::is_object) => {
                out.push_str(&format!("{pad}{name}:\n"));
                for item in list {
                    let text = indented(item, depth + 2);
                    out.push_str(&format!("{pad}  - {}", text.trim_start()));
                }
            }
            other => out.push_str(&format!("{pad}{name}: {other}\n")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_names_stay_what_they_are() {
        assert_eq!((literal("$(rm) $x"), literal("$$(")), ("$$(rm) $$x".to_owned(), "$$$$(".to_owned()));
        assert_eq!(label("circuitscope features dashboard"), "circuitscope-features-dashboard");
        assert_eq!((label("Ünï / --"), label("--")), ("n".to_owned(), "circuitscope".to_owned()));
        assert_eq!(label(&"a-".repeat(40)).len(), 49);
    }
}
