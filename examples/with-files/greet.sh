#!/bin/sh
exec python -m greeter
