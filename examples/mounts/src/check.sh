#!/bin/sh
# Mounted directories keep executable bits.
echo "checked $PROJECT_ROOT"
