//! Which Python samples the guide has, and what its way from PDF to text broke in each. The samples themselves are the old
//! vendor's and lie in the guide only: here is just as much of a line as tells it from others.

use crate::extract::Repair::{self, Joined, Lines, MadeUp, Page, Written};

/// How to know a sample, and what mends it.
///
/// Where a row says no more, a page break took its part of the indentation (`Page`, `Lines`), or the page was too narrow for
/// a string or a statement (`Joined`; what is broken within parentheses is whole for Python).
pub(crate) struct Sample {
    pub(crate) marker: &'static str,
    pub(crate) repairs: &'static [Repair],
}

/// Broken at the same place in all three functions.
const TOLD: Repair = Joined("Rejected: Anomaly confidence");
const LIMIT: Repair = Joined(">=");

/// A page break within a documentation string was taken for its end.
const DOCSTRING: Repair = MadeUp("\"\"\"", ":");

pub(crate) const GETTING_STARTED: Sample = Sample { marker: "class GettingStarted:", repairs: &[] };

pub(crate) const CREATE_PROJECT: Sample = Sample { marker: "def create_project(", repairs: &[Joined("response =")] };

pub(crate) const LIST_PROJECTS: Sample = Sample {
    marker: "def list_projects(",
    repairs: &[
        Page(2, 8),
        Lines("print(\"-----", "print", 4),
        // A bracket was lost where the line ended.
        Written(
            "in project_description[\"ProjectDescription\"]\n",
            "in project_description[\"ProjectDescription\"][\n",
        ),
        Lines("print(\"Done!", "print", -4),
        Lines("except ClientError", "raise", -4),
    ],
};

pub(crate) const DELETE_PROJECT: Sample = Sample { marker: "def delete_project(", repairs: &[Joined("response =")] };

pub(crate) const CREATE_DATASET: Sample = Sample {
    marker: "def create_dataset(",
    repairs: &[
        Page(2, 4),
        Lines("logger.exception(\"Couldn't create dataset", "raise", 4),
        // Outside of parentheses, where a new line is a new statement.
        Joined("message = dataset_description[\"DatasetDescription\"]"),
    ],
};

pub(crate) const DESCRIBE_DATASET: Sample =
    Sample { marker: "def describe_dataset(", repairs: &[Joined("['ImageStats']")] };

pub(crate) const UPDATE_DATASET_ENTRIES: Sample = Sample {
    marker: "def update_dataset_entries(",
    repairs: &[
        Page(2, 8),
        Page(3, 4),
        Lines("f\"Rollback", "continue", 4),
        Lines("logger.info(f\"Added", "raise", -4),
        Joined("dataset ="),
        Joined("dataset for project"),
        Joined("dataset for project {project_name}"),
        Joined("rolling back {dataset_type} dataset"),
        Joined("{status} :"),
        Joined("{status_message} :"),
        // One call is closed twice, and another never.
        Written("{project_name}.\"))\n                finished", "{project_name}.\")\n                finished"),
        Written("{project_name}.\"\n                finished", "{project_name}.\")\n                finished"),
    ],
};

pub(crate) const DELETE_DATASET: Sample = Sample { marker: "def delete_dataset(", repairs: &[] };

pub(crate) const CREATE_MODEL: Sample = Sample {
    marker: "def create_model(",
    repairs: &[
        Page(2, -4),
        Page(3, 8),
        // Else a trained model is waited for for ever.
        Lines("finished = True", "finished", -4),
        Lines("except ClientError", "return", -4),
        Joined("might take several hours to"),
        // A quotation mark was made up where the line ended.
        Written("\"\"\").split(", "\"\").split("),
        // Its capital was lost at the head of a page: boto3 knows no such argument.
        Written(" projectName=", " ProjectName="),
    ],
};

pub(crate) const DESCRIBE_MODELS: Sample = Sample { marker: "def describe_models(", repairs: &[Joined("response =")] };

pub(crate) const START_MODEL: Sample = Sample {
    marker: "def start_model(",
    repairs: &[
        Page(2, 8),
        Lines("Lookout for Vision can", "MaxInferenceUnits = max_inference_units)", -4),
        Lines("logger.info(\"Model hosting failed", "finished = True", 4),
    ],
};

pub(crate) const STOP_MODEL: Sample = Sample { marker: "def stop_model(", repairs: &[Page(2, 4)] };

pub(crate) const DELETE_MODEL: Sample = Sample {
    marker: "def delete_model(",
    repairs: &[
        Page(2, -4),
        // Else it asks again at once, and waits after the end.
        Lines("if model_exists is False", "time.sleep", 4),
        Joined("response ="),
    ],
};

pub(crate) const DETECT_ANOMALIES: Sample =
    Sample { marker: "def detect_anomalies(lookoutvision_client", repairs: &[Page(2, 4)] };

pub(crate) const REJECT_ON_CLASSIFICATION: Sample =
    Sample { marker: "def reject_on_classification(image", repairs: &[LIMIT, TOLD] };

pub(crate) const REJECT_ON_COVERAGE: Sample = Sample {
    marker: "def reject_on_coverage(",
    repairs: &[
        Page(2, -4),
        Lines("if not reject", "logger.info", -4),
        LIMIT,
        TOLD,
        Joined("({confidence_limit:.2%}) and"),
        Joined("coverage ({anomaly['PixelAnomaly']"),
    ],
};

pub(crate) const REJECT_ON_ANOMALY_TYPES: Sample = Sample {
    marker: "def reject_on_anomaly_types(",
    // What is logged there is made only where it rejects.
    repairs: &[Lines("logger.info(\"%s\"", "logger", 4), LIMIT, TOLD],
};

pub(crate) const SHOW_ANOMALIES: Sample = Sample {
    marker: "class ShowAnomalies:",
    repairs: &[
        Page(2, 4),
        Page(3, 8),
        Page(4, 4),
        Lines("image_mask = ", "raise", 4),
        Lines("lookoutvision_client = session.client", "print(\"Successfully", 4),
        Lines("if not segmentation_info", "y_coordinate, \"white\")", -4),
        Joined("if analysis[\"DetectAnomalyResult\"]"),
        Joined("found_anomalies[i]['PixelAnomaly']"),
        Joined(". Area:"),
        Joined("format file:"),
        DOCSTRING,
        // The last line of a page whose other lines lie deeper.
        Written("        @staticmethod\n    def show_", "    @staticmethod\n    def show_"),
        // A parenthesis was made up in a call that a page's width broke, and another at a page's end.
        Written("{photo}\")\n            )", "{photo}\")"),
        Written("boto3.Session()", "boto3.Session("),
    ],
};

pub(crate) const CSV_TO_MANIFEST: Sample = Sample {
    marker: "def check_errors(",
    repairs: &[
        Page(2, 4),
        Lines("if errors_found", "os.remove(errors_file)", -4),
        Lines("os.remove(deduplicated_file)", "os.remove", 4),
        Lines("metadata['job-name']", "image_count += 1", 4),
        Lines("# Get command line", "print(f\"Anomalous", 8),
        Lines("except FileNotFoundError", "print(f\"File not found", 4),
        Joined("Re-run the script with"),
        DOCSTRING,
    ],
};

pub(crate) const DATASET_EXPORT: Sample = Sample {
    marker: "def copy_file(",
    repairs: &[
        Page(4, 4),
        Lines("def process_json_line", "if \"anomaly-mask-ref\"", -4),
        Lines("source_anomaly_ref =", "return entry_json", 4),
        Page(6, 12),
        Lines("upload_manifest_file(", "raise", -8),
        Lines("def export_datasets", "lookoutvision_client, s3_resource, project, dataset, ", -12),
        Lines("print(\"Exported dataset locations", "print(\"Done", 4),
        Joined("\"/masks/\" +"),
    ],
};

/// The colours of a mask, for a manifest.
pub(crate) const MASK_COLOURS: Sample = Sample { marker: "img = Image.open(", repairs: &[] };

pub(crate) const LAMBDA_FUNCTION: Sample = Sample {
    marker: "def lambda_handler(",
    repairs: &[
        Lines("file_name = f\"s3", "file_name", 4),
        Lines("except ValueError", "return lambda_response", 4),
        Page(5, 4),
        Joined("{event['S3Object']"),
        Joined("image bytes or images"),
        TOLD,
        DOCSTRING,
        // A capital was lost: the client that the guide has for it sends the other name.
        Written("S3object", "S3Object"),
    ],
};

pub(crate) const LAMBDA_CLIENT: Sample = Sample {
    marker: "def analyze_image(",
    repairs: &[
        Lines("# Call the lambda", "lambda_payload = {\"image\"", 4),
        Page(3, 8),
        Lines("except ClientError", "print(error)", -4),
        Lines("if __name__", "main()", -8),
    ],
};

/// The page was too narrow for the line that opens a channel to the Edge Agent.
const CHANNEL: Repair = Joined(") as");

/// Only opens the channel: other samples go into its block.
pub(crate) const EDGE_STUB: Sample = Sample { marker: "leakage", repairs: &[CHANNEL, Joined("to prevent resources")] };

pub(crate) const EDGE_START: Sample = Sample {
    marker: "def start_model_if_needed(",
    repairs: &[Lines("stub.StartModel(", "time.sleep", 4), Joined("model_description_response ="), CHANNEL],
};

pub(crate) const EDGE_DETECT: Sample =
    Sample { marker: "def detect_anomalies(stub", repairs: &[Joined("Image is anomalous -"), CHANNEL] };

pub(crate) const EDGE_STOP: Sample = Sample { marker: "stop_model_response = ", repairs: &[] };

pub(crate) const EDGE_LIST: Sample = Sample { marker: "models_list_response = ", repairs: &[] };

pub(crate) const EDGE_ERRORS: Sample =
    Sample { marker: "# Error handling", repairs: &[Lines("stub.DetectAnomalies(", "stub", 4)] };

pub(crate) const EDGE_EXAMPLE: Sample = Sample {
    marker: "    models_list_response",
    repairs: &[CHANNEL, Joined("to prevent"), Lines("print(f\"Model Details", "print", 8)],
};
