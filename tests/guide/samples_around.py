"""What the guide's samples are cut out of: it shows functions, and says that the whole programs lie elsewhere."""

import imghdr
import logging
from time import sleep as slept

from botocore.exceptions import ClientError  # noqa: F401

logger = logging.getLogger(__name__)


class time:
    """The samples ask again after as much as ten minutes, which is what training took. Here it takes seconds."""

    @staticmethod
    def sleep(seconds):
        slept(min(seconds, 0.1))


class ModelDescriptions:
    """The one function that samples call and the guide does not show."""

    @staticmethod
    def describe_model(lookoutvision_client, project_name, model_version):
        told = lookoutvision_client.describe_model(ProjectName=project_name, ModelVersion=model_version)["ModelDescription"]
        print(f"\tVersion {told['ModelVersion']}: {told['Status']}, {told['StatusMessage']}, {told['ModelArn']}")
