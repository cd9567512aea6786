import json
import os
import sys

import requests

sys.path.insert(0, os.path.join(os.environ["PROJECT_ROOT"], "src"))
from greeter import greet

with open("/app/settings.json", encoding="utf-8") as file:
    settings = json.load(file)
print(greet(settings["greeting"]), "in", os.getcwd(), "with requests", requests.__version__)
