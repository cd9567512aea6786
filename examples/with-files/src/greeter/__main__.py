from . import greeting

print(greeting())
